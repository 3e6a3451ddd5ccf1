// Package endpoint calls the operations of one endpoint, as Runpod's Go SDK does on the wire.
package endpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/runpod/go-sdk/pkg/sdk/config"
)

const (
	defaultURL     = "https://api.runpod.ai/v2"
	shortSeconds   = 3  // run, status, cancel, health, purge-queue
	longestSeconds = 90 // of one held request; also of the whole wait, unless the caller says
	graceSeconds   = 2  // a held request may take so much longer
	overallSeconds = 3  // and all of them together so much
)

// Endpoint is made by New.
type Endpoint struct {
	base string
	key  string
}

// New makes an endpoint; nothing is sent.
func New(configuration *config.Config, option *Option) (*Endpoint, error) {
	if configuration.ApiKey == nil || option.EndpointId == nil {
		return nil, errors.New("ApiKey and EndpointId are needed")
	}
	base := defaultURL
	if option.EndpointUrl != nil {
		base = *option.EndpointUrl
	}
	return &Endpoint{base: base + "/" + *option.EndpointId, key: *configuration.ApiKey}, nil
}

// call sends one request on a client of its own and decodes the answer.
func (endpoint *Endpoint) call(ctx context.Context, method, path string, body []byte, seconds int,
	out interface{}) error {
	request, err := http.NewRequestWithContext(ctx, method, endpoint.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Authorization", "Bearer "+endpoint.key)
	client := http.Client{Timeout: time.Duration(seconds) * time.Second}
	response, err := client.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return errors.New("ctx timeout reached")
		}
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("response status %s", response.Status)
	}
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	return json.Unmarshal(answer, out)
}

// short is call() with the time-out of operations that don't wait.
func (endpoint *Endpoint) short(method, path string, body []byte, timeout *int,
	out interface{}) error {
	return endpoint.call(context.Background(), method, path, body, given(timeout, shortSeconds), out)
}

func given(timeout *int, otherwise int) int {
	if timeout == nil {
		return otherwise
	}
	return *timeout
}

// A plan for requests that are held until a job ends.
type waiting struct {
	query   string
	seconds int
	ctx     context.Context
	cancel  context.CancelFunc
}

func plan(timeout *int) waiting {
	all := given(timeout, longestSeconds)
	one := all
	if one > longestSeconds {
		one = longestSeconds
	}
	ctx, cancel := context.WithTimeout(context.Background(),
		time.Duration(all+overallSeconds)*time.Second)
	return waiting{fmt.Sprintf("?wait=%d", one*1000), one + graceSeconds, ctx, cancel}
}

func hasEnded(status *string) bool {
	if status == nil {
		return false
	}
	switch *status {
	case "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT":
		return true
	}
	return false
}

// Run submits a job.
func (endpoint *Endpoint) Run(input *RunInput) (*RunOutput, error) {
	body, err := json.Marshal(input.JobInput)
	if err != nil {
		return nil, err
	}
	output := &RunOutput{}
	return output, endpoint.short(http.MethodPost, "/run", body, input.RequestTimeout, output)
}

// RunSync submits a job and waits for its end, by /status-sync when /runsync came back without it.
func (endpoint *Endpoint) RunSync(input *RunSyncInput) (*RunSyncOutput, error) {
	body, err := json.Marshal(input.JobInput)
	if err != nil {
		return nil, err
	}
	wait := plan(input.Timeout)
	defer wait.cancel()
	output := &RunSyncOutput{}
	err = endpoint.call(context.Background(), http.MethodPost, "/runsync"+wait.query, body,
		wait.seconds, output)
	if err != nil || hasEnded(output.Status) || output.Error != nil {
		return output, err
	}
	return output, endpoint.await(wait, *output.Id, output)
}

// StatusSync waits for a job's end.
func (endpoint *Endpoint) StatusSync(input *StatusSyncInput) (*StatusSyncOutput, error) {
	if input.Id == nil {
		return nil, errors.New("Id is needed")
	}
	wait := plan(input.Timeout)
	defer wait.cancel()
	output := &StatusSyncOutput{}
	return output, endpoint.await(wait, *input.Id, output)
}

// await asks again and again, without a pause: the server is expected to hold.
func (endpoint *Endpoint) await(wait waiting, id string, output *StatusOutput) error {
	for wait.ctx.Err() == nil {
		err := endpoint.call(wait.ctx, http.MethodPost, "/status-sync/"+id+wait.query, nil,
			wait.seconds, output)
		if err != nil || hasEnded(output.Status) || output.Error != nil {
			return err
		}
	}
	return errors.New("timeout reached")
}

// Status reads a job's state.
func (endpoint *Endpoint) Status(input *StatusInput) (*StatusOutput, error) {
	if input.Id == nil {
		return nil, errors.New("Id is needed")
	}
	output := &StatusOutput{}
	return output, endpoint.short(http.MethodPost, "/status/"+*input.Id, nil, input.RequestTimeout,
		output)
}

// Cancel stops a job.
func (endpoint *Endpoint) Cancel(input *CancelInput) (*CancelOutput, error) {
	if input.Id == nil {
		return nil, errors.New("Id is needed")
	}
	output := &CancelOutput{}
	return output, endpoint.short(http.MethodPost, "/cancel/"+*input.Id, nil, input.RequestTimeout,
		output)
}

// Health reads the endpoint's counters.
func (endpoint *Endpoint) Health(input *HealthInput) (*HealthOutput, error) {
	output := &HealthOutput{}
	return output, endpoint.short(http.MethodGet, "/health", nil, input.RequestTimeout, output)
}

// PurgeQueue removes the jobs that wait.
func (endpoint *Endpoint) PurgeQueue(input *PurgeQueueInput) (*PurgeQueueOutput, error) {
	output := &PurgeQueueOutput{}
	return output, endpoint.short(http.MethodPost, "/purge-queue", nil, input.RequestTimeout, output)
}

// Stream hands each element to the channel and closes it at the end.
func (endpoint *Endpoint) Stream(input *StreamInput, elements chan<- StreamResult) error {
	if elements != nil {
		defer close(elements)
	}
	if input.Id == nil {
		return errors.New("Id is needed")
	}
	wait := plan(input.Timeout)
	defer wait.cancel()
	for wait.ctx.Err() == nil {
		var answer struct {
			Status *string
			Stream []StreamResult
		}
		err := endpoint.call(wait.ctx, http.MethodPost, "/stream/"+*input.Id+wait.query, nil,
			wait.seconds, &answer)
		if err != nil {
			return err
		}
		for _, element := range answer.Stream {
			elements <- element
		}
		if hasEnded(answer.Status) {
			return nil
		}
	}
	return errors.New("ctx timeout reached")
}
