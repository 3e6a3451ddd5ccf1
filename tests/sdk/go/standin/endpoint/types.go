package endpoint

// Option says which endpoint is meant, and at which base URL.
type Option struct {
	EndpointId  *string
	EndpointUrl *string
}

// JobInput is the body of a submit. An empty Input is left out, as the SDK does.
type JobInput struct {
	Input    map[string]interface{} `json:"input,omitempty"`
	Policy   *Policy                `json:"policy,omitempty"`
	S3Config *S3Config              `json:"s3Config,omitempty"`
	Webhook  *string                `json:"webhook,omitempty"`
}

// Policy is a job's policy, in milliseconds.
type Policy struct {
	TTL              *int `json:"ttl,omitempty"`
	ExecutionTimeout *int `json:"executionTimeout,omitempty"`
}

// S3Config is handed to the worker.
type S3Config struct {
	AccessId     *string `json:"accessId,omitempty"`
	AccessSecret *string `json:"accessSecret,omitempty"`
	BucketName   *string `json:"bucketName,omitempty"`
	EndpointUrl  *string `json:"endpointUrl,omitempty"`
	ObjectPath   *string `json:"objectPath,omitempty"`
}

// All time-outs are in seconds.
type (
	RunInput struct {
		JobInput       *JobInput
		RequestTimeout *int
	}
	RunSyncInput struct {
		JobInput *JobInput
		Timeout  *int
	}
	StatusInput struct {
		Id             *string
		RequestTimeout *int
	}
	StatusSyncInput struct {
		Id      *string
		Timeout *int
	}
	StreamInput struct {
		Id      *string
		Timeout *int
	}
	CancelInput struct {
		Id             *string
		RequestTimeout *int
	}
	HealthInput struct {
		RequestTimeout *int
	}
	PurgeQueueInput struct {
		RequestTimeout *int
	}
)

// The numbers are ints and error is a string: any other JSON fails to decode, as with the SDK.
type (
	RunOutput struct {
		Id     *string `json:"id,omitempty"`
		Status *string `json:"status,omitempty"`
	}
	StatusOutput struct {
		DelayTime     *int         `json:"delayTime,omitempty"`
		Error         *string      `json:"error,omitempty"`
		ExecutionTime *int         `json:"executionTime,omitempty"`
		Id            *string      `json:"id,omitempty"`
		Output        *interface{} `json:"output,omitempty"`
		Retries       *int         `json:"retries,omitempty"`
		Status        *string      `json:"status,omitempty"`
	}
	CancelOutput struct {
		DelayTime     *int    `json:"delayTime,omitempty"`
		Error         *string `json:"error,omitempty"`
		ExecutionTime *int    `json:"executionTime,omitempty"`
		Id            *string `json:"id,omitempty"`
		Status        *string `json:"status,omitempty"`
	}
	HealthJobOutput struct {
		Completed  *int `json:"completed,omitempty"`
		Failed     *int `json:"failed,omitempty"`
		InProgress *int `json:"inProgress,omitempty"`
		InQueue    *int `json:"inQueue,omitempty"`
		Retried    *int `json:"retried,omitempty"`
	}
	HealthWorkerOutput struct {
		Idle         *int `json:"idle,omitempty"`
		Initializing *int `json:"initializing,omitempty"`
		Ready        *int `json:"ready,omitempty"`
		Running      *int `json:"running,omitempty"`
		Throttled    *int `json:"throttled,omitempty"`
	}
	HealthOutput struct {
		Jobs    *HealthJobOutput    `json:"jobs,omitempty"`
		Workers *HealthWorkerOutput `json:"workers,omitempty"`
	}
	PurgeQueueOutput struct {
		Removed *int    `json:"removed,omitempty"`
		Status  *string `json:"status,omitempty"`
	}

	// StreamResult is one element of a stream.
	StreamResult map[string]interface{}
)

// RunSyncOutput and StatusSyncOutput are what /status answers.
type (
	RunSyncOutput    = StatusOutput
	StatusSyncOutput = StatusOutput
)
