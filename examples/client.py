"""Runs the example worker's job on files through podgate, with Runpod's own Python SDK.

    RUNPOD_ENDPOINT_BASE_URL=http://127.0.0.1:8080/v2 RUNPOD_API_KEY=pg_... \
        python3 examples/client.py ENDPOINT FILE...

Nothing here knows of podgate: the base URL and the key are all that changed.
"""

import base64
import json
import os
import sys

import runpod


def short(value, length=72):
    """`value` with its long texts clipped, for showing."""
    if isinstance(value, dict):
        return {key: short(item, length) for key, item in value.items()}
    if isinstance(value, str) and len(value) > length:
        return value[: length - 3] + "..."
    return value


def main(arguments):
    if len(arguments) < 2:
        sys.exit(__doc__)
    runpod.api_key = os.environ["RUNPOD_API_KEY"]
    endpoint = runpod.Endpoint(arguments[0])
    for path in arguments[1:]:
        with open(path, "rb") as file:
            data = base64.b64encode(file.read()).decode("ascii")
        job = endpoint.run({"input": {"file_base64": data, "width": 64}})
        print(f"{path}: job {job.job_id}", flush=True)
        output = job.output(timeout=120)
        status = job.status()
        print(f"{path}: {status}")
        print(json.dumps(short(output), indent=2, sort_keys=True), flush=True)
        if status != "COMPLETED" or not isinstance(output, dict):
            sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
