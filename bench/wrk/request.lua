-- wrk sends the request in the file that BENCH_REQUEST names, byte for byte: the same bytes that
-- bench/load.c sends.
local file = assert(io.open(os.getenv("BENCH_REQUEST"), "rb"))
local bytes = file:read("*a")
file:close()

function request()
    return bytes
end
