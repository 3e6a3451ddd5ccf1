module podgate/sdk-client

go 1.19

require github.com/runpod/go-sdk/pkg/sdk v0.0.0

replace github.com/runpod/go-sdk/pkg/sdk => ./standin
