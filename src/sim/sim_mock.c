#include "build_config.h"

#include "sim/sim_mock.h"

#include <event2/buffer.h>
#include <stdlib.h>
#include <string.h>

#include "sim/sim.h"
#include "sim/sim_queue.h"

enum {
    RAW_OUTPUT_MAXIMUM = 64 * 1024 * 1024,
    EMPTY_INPUT_LOSS_MS = 1000 /* the live platform takes 30 to 100 s to notice */
};

/* The views point into the job's input, which outlives the run. */
struct mock {
    struct sim_text result;
    struct sim_text error;
    struct sim_text progress;
    struct sim_text stream; /* array; empty for a counted stream */
    int64_t delay_ms;
    int64_t interval_ms;
    int64_t stream_count;
    int64_t progress_count;
    int64_t raw_output_bytes;
    int64_t crashes; /* runs that lose their worker */
    enum job_state end_state;
    bool aggregate;
    bool no_output;
    bool streams;
    size_t stream_cursor;
    size_t progress_cursor;
    int64_t chunks_done;
    int64_t progress_done;
};

static int64_t get_integer(struct sim_text input, const char *key, int64_t otherwise)
{
    struct sim_text value;
    int64_t number;
    if (sim_json_get(input, key, &value) && sim_json_integer(value, &number) && number >= 0)
        return number;
    return otherwise;
}

static bool get_flag(struct sim_text input, const char *key)
{
    struct sim_text value;
    return sim_json_get(input, key, &value) && sim_json_type(value) == SIM_JSON_TRUE;
}

static struct sim_text get_value(struct sim_text input, const char *key)
{
    struct sim_text value = {"", 0};
    if (!sim_json_get(input, key, &value))
        value.length = 0;
    return value;
}

static int64_t count_elements(struct sim_text array)
{
    int64_t count = 0;
    size_t cursor = 0;
    struct sim_text element;
    if (sim_json_type(array) != SIM_JSON_ARRAY)
        return 0;
    while (sim_json_next(array, &cursor, NULL, &element))
        count++;
    return count;
}

static void read_stream(struct mock *mock, struct sim_text input)
{
    struct sim_text value = get_value(input, "mock_stream");
    if (value.length == 0)
        return;
    mock->streams = true;
    if (sim_json_type(value) == SIM_JSON_ARRAY) {
        mock->stream = value;
        mock->stream_count = count_elements(value);
    } else {
        mock->stream_count = get_integer(input, "mock_stream", 0);
    }
}

static void read_progress(struct mock *mock, struct sim_text input)
{
    mock->progress = get_value(input, "mock_progress");
    if (mock->progress.length == 0)
        return;
    mock->progress_count =
        sim_json_type(mock->progress) == SIM_JSON_ARRAY ? count_elements(mock->progress) : 1;
}

static enum job_state read_end_state(struct sim_text input)
{
    struct sim_text value = get_value(input, "mock_status");
    if (sim_text_is(value, "\"TIMED_OUT\""))
        return JOB_TIMED_OUT;
    if (sim_text_is(value, "\"CANCELLED\""))
        return JOB_CANCELLED;
    if (sim_text_is(value, "\"FAILED\""))
        return JOB_FAILED;
    return JOB_COMPLETED;
}

bool mock_begin(struct job *job)
{
    struct mock *mock = calloc(1, sizeof *mock);
    if (!mock)
        return false;
    struct sim_text input = blob_text(job->input);
    size_t cursor = 0;
    struct sim_text first;
    bool is_empty = !sim_json_next(input, &cursor, NULL, &first);
    mock->result = get_value(input, "mock_return");
    mock->error = get_value(input, "mock_error");
    mock->delay_ms = get_integer(input, "mock_delay", 0);
    mock->interval_ms = get_integer(input, "mock_stream_interval", 0);
    mock->raw_output_bytes = get_integer(input, "mock_raw_output_bytes", -1);
    mock->crashes = get_flag(input, "mock_crash") ? INT32_MAX : get_integer(input, "mock_crash", 0);
    mock->aggregate = get_flag(input, "mock_aggregate");
    mock->no_output = get_flag(input, "mock_no_output");
    mock->end_state = read_end_state(input);
    read_stream(mock, input);
    read_progress(mock, input);
    if (is_empty && job->sim->options.empty_input_fails) {
        mock->crashes = INT32_MAX;
        mock->delay_ms = EMPTY_INPUT_LOSS_MS;
    }
    job->mock = mock;
    return true;
}

void mock_free(struct job *job)
{
    free(job->mock);
    job->mock = NULL;
}

static int64_t chunk_at(const struct job *job)
{
    return job->started_ms + job->mock->chunks_done * job->mock->interval_ms;
}

/* Progress updates are spread evenly over the delay, the first one at the start. */
static int64_t progress_at(const struct job *job)
{
    const struct mock *mock = job->mock;
    return job->started_ms + mock->delay_ms * mock->progress_done / mock->progress_count;
}

static int64_t end_at(const struct job *job)
{
    const struct mock *mock = job->mock;
    int64_t run_ms = mock->delay_ms;
    if (mock->stream_count > 0 && (mock->stream_count - 1) * mock->interval_ms > run_ms)
        run_ms = (mock->stream_count - 1) * mock->interval_ms;
    return job->started_ms + run_ms;
}

int64_t mock_next_ms(const struct job *job)
{
    const struct mock *mock = job->mock;
    int64_t at = end_at(job);
    if (mock->chunks_done < mock->stream_count && chunk_at(job) < at)
        at = chunk_at(job);
    if (mock->progress_done < mock->progress_count && progress_at(job) < at)
        at = progress_at(job);
    return at;
}

static void append(struct evbuffer *out, struct sim_text text)
{
    evbuffer_add(out, text.data, text.length);
}

/* Appends the next yield of the stream, without its envelope. */
static void write_yield(struct evbuffer *out, const struct mock *mock, size_t *cursor,
                        int64_t index)
{
    struct sim_text element;
    if (mock->stream.length && sim_json_next(mock->stream, cursor, NULL, &element))
        append(out, element);
    else
        evbuffer_add_printf(out, "{\"index\":%lld}", (long long)index);
}

static struct sim_text contents(struct evbuffer *buffer)
{
    size_t length = evbuffer_get_length(buffer);
    const char *data = length ? (const char *)evbuffer_pullup(buffer, -1) : NULL;
    return data ? (struct sim_text){data, length} : sim_text_of("");
}

/* The last chunk wakes nobody when the job ends at the same moment: it leaves with the terminal
 * status, as in the recorded trace (contract 5.1). */
static void emit_chunk(struct job *job, int64_t now_ms)
{
    struct mock *mock = job->mock;
    bool ends_now = mock->chunks_done + 1 == mock->stream_count && now_ms >= end_at(job);
    struct evbuffer *json = evbuffer_new();
    if (!json)
        return;
    evbuffer_add(json, "{\"output\":", 10);
    write_yield(json, mock, &mock->stream_cursor, mock->chunks_done);
    evbuffer_add(json, "}", 1);
    mock->chunks_done++;
    if (!ends_now)
        queue_chunk(job, contents(json));
    else if (!job_add_chunk(job, contents(json)))
        mock->end_state = JOB_FAILED;
    evbuffer_free(json);
}

static void emit_progress(struct job *job)
{
    struct mock *mock = job->mock;
    struct sim_text value = mock->progress;
    if (sim_json_type(value) == SIM_JSON_ARRAY &&
        !sim_json_next(mock->progress, &mock->progress_cursor, NULL, &value))
        value = sim_text_of("null");
    mock->progress_done++;
    queue_progress(job, value);
}

static void write_output(struct evbuffer *out, const struct job *job)
{
    const struct mock *mock = job->mock;
    if (mock->no_output)
        return;
    if (mock->raw_output_bytes >= 0) {
        size_t length = (size_t)mock->raw_output_bytes;
        length = length < 2 ? 0 : length > RAW_OUTPUT_MAXIMUM ? RAW_OUTPUT_MAXIMUM - 2 : length - 2;
        struct evbuffer_iovec space;
        evbuffer_add(out, "\"", 1);
        if (length && evbuffer_reserve_space(out, (ev_ssize_t)length, &space, 1) == 1) {
            memset(space.iov_base, 'x', length);
            space.iov_len = length;
            evbuffer_commit_space(out, &space, 1);
        }
        evbuffer_add(out, "\"", 1);
    } else if (mock->result.length) {
        append(out, mock->result);
    } else if (mock->streams) {
        /* Like a real generator: its yields with return_aggregate_stream, else an empty list. */
        size_t cursor = 0;
        evbuffer_add(out, "[", 1);
        for (int64_t i = 0; mock->aggregate && i < mock->stream_count; i++) {
            if (i > 0)
                evbuffer_add(out, ",", 1);
            write_yield(out, mock, &cursor, i);
        }
        evbuffer_add(out, "]", 1);
    } else if (mock->error.length == 0) {
        append(out, blob_text(job->input));
    }
}

/* `true` fails as a handler that raised; a string is the error itself; anything else is no string,
 * with which a real job ends COMPLETED without output (runpod-python #299). */
static void finish(struct job *job)
{
    struct mock *mock = job->mock;
    struct evbuffer *output = evbuffer_new();
    struct evbuffer *error = evbuffer_new();
    enum job_state state = mock->end_state;
    if (output && error) {
        write_output(output, job);
        switch (sim_json_type(mock->error)) {
        case SIM_JSON_STRING:
            append(error, mock->error);
            state = JOB_FAILED;
            break;
        case SIM_JSON_TRUE:
            evbuffer_add_printf(
                error,
                "\"{\\\"error_type\\\": \\\"<class 'RuntimeError'>\\\", \\\"error_message\\\": "
                "\\\"mock_error\\\", \\\"error_traceback\\\": \\\"Traceback (most recent call "
                "last):\\\\n  mock\\\\nRuntimeError: mock_error\\\\n\\\", \\\"hostname\\\": "
                "\\\"sim\\\", \\\"worker_id\\\": \\\"%s\\\", \\\"runpod_version\\\": "
                "\\\"1.12.0\\\"}\"",
                job->worker_id);
            state = JOB_FAILED;
            break;
        case SIM_JSON_OBJECT:
        case SIM_JSON_ARRAY:
        case SIM_JSON_NUMBER: evbuffer_drain(output, evbuffer_get_length(output)); break;
        case SIM_JSON_NONE:
        case SIM_JSON_FALSE:
        case SIM_JSON_NULL: break;
        }
        queue_end(job, state, contents(output), contents(error));
    }
    if (output)
        evbuffer_free(output);
    if (error)
        evbuffer_free(error);
}

void mock_step(struct job *job, int64_t now_ms)
{
    struct mock *mock = job->mock;
    while (mock->progress_done < mock->progress_count && progress_at(job) <= now_ms)
        emit_progress(job);
    while (mock->chunks_done < mock->stream_count && chunk_at(job) <= now_ms)
        emit_chunk(job, now_ms);
    if (now_ms < end_at(job) || mock->chunks_done < mock->stream_count)
        return;
    if (job->losses < mock->crashes)
        queue_worker_lost(job);
    else
        finish(job);
}
