module github.com/runpod/go-sdk/pkg/sdk

go 1.19
