// Package sdk is a stand-in for Runpod's Go SDK, for machines that can't obtain that module. It has
// the same names, so that the client beside it compiles with either, and puts the same requests on
// the wire: POST for everything but health, the same time-outs and `wait` values, no pause between
// polls, 200 as the only success. Written for these tests; it shares no code with the SDK.
//
// To build the client with the SDK itself, where a Go module proxy or the repository can be reached:
// PODGATE_GO_SDK=VERSION tests/setup-sdks DIRECTORY, VERSION being a tag, a branch or a commit. With
// a copy of its source at hand, in the directory beside this one:
// go mod edit -replace=github.com/runpod/go-sdk/pkg/sdk=COPY, go mod tidy and
// go build -o DIRECTORY/go-client . ;
// the tests then run with PODGATE_TEST_SDKS=DIRECTORY.
package sdk

// String gives the address of a copy.
func String(value string) *string { return &value }

// Int gives the address of a copy.
func Int(value int) *int { return &value }
