// Runs one operation of Runpod's Go SDK and prints what it gave as one line of JSON: {"value": ...}
// or {"error": "..."}.
//
//	go-client OPERATION BASE_URL KEY ENDPOINT [ARGUMENTS AS JSON]
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/runpod/go-sdk/pkg/sdk"
	"github.com/runpod/go-sdk/pkg/sdk/config"
	rpEndpoint "github.com/runpod/go-sdk/pkg/sdk/endpoint"
)

// What a test hands over. Timeout in seconds.
type arguments struct {
	Id      string                 `json:"id"`
	Input   map[string]interface{} `json:"input"`
	Timeout *int                   `json:"timeout"`
	Policy  *rpEndpoint.Policy     `json:"policy"`
}

type streamed struct {
	Id       string                    `json:"id"`
	Elements []rpEndpoint.StreamResult `json:"elements"`
	Broken   int                       `json:"broken"`
}

func stream(endpoint *rpEndpoint.Endpoint, id string, timeout *int) (interface{}, error) {
	results := make(chan rpEndpoint.StreamResult, 100)
	collected := make(chan []rpEndpoint.StreamResult)
	go func() {
		elements := []rpEndpoint.StreamResult{}
		for element := range results {
			elements = append(elements, element)
		}
		collected <- elements
	}()
	err := endpoint.Stream(&rpEndpoint.StreamInput{Id: sdk.String(id), Timeout: timeout}, results)
	return streamed{Id: id, Elements: <-collected}, err
}

// The stream to its end: after a connection that broke it goes on, as a program would.
func streamOn(endpoint *rpEndpoint.Endpoint, id string) (interface{}, error) {
	all := streamed{Id: id}
	for {
		part, err := stream(endpoint, id, nil)
		all.Elements = append(all.Elements, part.(streamed).Elements...)
		if err == nil {
			return all, nil
		}
		if all.Broken++; all.Broken > 1000 {
			return nil, err
		}
	}
}

func run(endpoint *rpEndpoint.Endpoint, given arguments) (string, error) {
	output, err := endpoint.Run(&rpEndpoint.RunInput{
		JobInput: &rpEndpoint.JobInput{Input: given.Input},
	})
	if err != nil {
		return "", err
	}
	if output.Id == nil {
		return "", fmt.Errorf("no id")
	}
	return *output.Id, nil
}

func call(endpoint *rpEndpoint.Endpoint, operation string, given arguments) (interface{}, error) {
	job := &rpEndpoint.JobInput{Input: given.Input, Policy: given.Policy}
	switch operation {
	case "runSync":
		return endpoint.RunSync(&rpEndpoint.RunSyncInput{JobInput: job, Timeout: sdk.Int(60)})
	case "run":
		return endpoint.Run(&rpEndpoint.RunInput{JobInput: job, RequestTimeout: sdk.Int(120)})
	case "status":
		return endpoint.Status(&rpEndpoint.StatusInput{Id: sdk.String(given.Id)})
	case "cancel":
		return endpoint.Cancel(&rpEndpoint.CancelInput{Id: sdk.String(given.Id)})
	case "health":
		return endpoint.Health(&rpEndpoint.HealthInput{})
	case "stream":
		return stream(endpoint, given.Id, given.Timeout)
	case "runThenStream":
		id, err := run(endpoint, given)
		if err != nil {
			return nil, err
		}
		return stream(endpoint, id, given.Timeout)
	// Further calls that the SDK has.
	case "runDefault":
		return endpoint.Run(&rpEndpoint.RunInput{JobInput: job})
	case "runSyncTimeout":
		return endpoint.RunSync(&rpEndpoint.RunSyncInput{JobInput: job, Timeout: given.Timeout})
	case "statusSync":
		return endpoint.StatusSync(&rpEndpoint.StatusSyncInput{
			Id: sdk.String(given.Id), Timeout: given.Timeout,
		})
	case "streamOn":
		return streamOn(endpoint, given.Id)
	case "purgeQueue":
		return endpoint.PurgeQueue(&rpEndpoint.PurgeQueueInput{})
	}
	return nil, fmt.Errorf("unknown operation %s", operation)
}

func main() {
	if len(os.Args) < 5 {
		fmt.Fprintln(os.Stderr, "usage: go-client OPERATION BASE_URL KEY ENDPOINT [JSON]")
		os.Exit(64)
	}
	var given arguments
	if len(os.Args) > 5 {
		if err := json.Unmarshal([]byte(os.Args[5]), &given); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(64)
		}
	}
	endpoint, err := rpEndpoint.New(
		&config.Config{ApiKey: sdk.String(os.Args[3])},
		&rpEndpoint.Option{EndpointId: sdk.String(os.Args[4]), EndpointUrl: sdk.String(os.Args[2])},
	)
	outcome := map[string]interface{}{}
	if err == nil {
		outcome["value"], err = call(endpoint, os.Args[1], given)
	}
	if err != nil {
		outcome["error"] = err.Error()
	}
	line, err := json.Marshal(outcome)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(70)
	}
	fmt.Println(string(line))
}
