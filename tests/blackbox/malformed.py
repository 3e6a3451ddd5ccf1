"""Requests that break HTTP, each with the answer it must get. In all of them @MARK@ stands for a word
that must never reach the upstream, @KEY@ for a valid key."""

AUTH = b"Authorization: Bearer @KEY@\r\n"
HOST = b"Host: podgate.test\r\n"
BODY = b'{"input":{"m":"@MARK@"}}'
LENGTH = len(BODY) - len(b"@MARK@") + 17  # harness.unique() gives 17 letters
SMUGGLED = (b"GET /v2/@MARK@/health HTTP/1.1\r\n" + HOST + AUTH + b"\r\n")


class Case:
    """`status`: what may come, one or several. `keeps`: the connection goes on."""

    def __init__(self, name, data, status=400, keeps=False):
        self.name = name
        self.data = data
        self.statuses = (status,) if isinstance(status, int) else status
        self.keeps = keeps

    def bytes(self, mark, key):
        return self.data.replace(b"@MARK@", mark.encode()).replace(b"@KEY@", key.encode())


def post(*lines, body=BODY, target=b"/v2/ep/run", host=HOST, version=b"HTTP/1.1", auth=AUTH):
    """A submit with these further lines; each must bring its own line end."""
    return b"POST " + target + b" " + version + b"\r\n" + host + auth + b"".join(lines) + b"\r\n" + body


def get(*lines, target=b"/v2/@MARK@/health", host=HOST, version=b"HTTP/1.1", auth=AUTH):
    return b"GET " + target + b" " + version + b"\r\n" + host + auth + b"".join(lines) + b"\r\n"


def length(value):
    return b"Content-Length: " + value + b"\r\n"


CL = length(b"%d" % LENGTH)
TE = b"Transfer-Encoding: chunked\r\n"
CHUNKED = b"%x\r\n" % LENGTH + BODY + b"\r\n0\r\n\r\n"


def chunks(body):
    return post(TE, body=body)


def coding(value, body=CHUNKED):
    return post(b"Transfer-Encoding: " + value + b"\r\n", body=body)


LINES = [
    Case("bare_lf_everywhere", get().replace(b"\r\n", b"\n")),
    Case("bare_lf_after_the_request_line", get().replace(b"\r\n", b"\n", 1)),
    Case("bare_lf_after_a_field", get(b"X-A: @MARK@\n")),
    Case("bare_lf_as_the_empty_line", get()[:-2] + b"\n"),
    Case("bare_lf_hides_a_field", post(CL, b"X: x\nTransfer-Encoding: chunked\r\n")),
    Case("bare_lf_before_the_request_line", b"\n" + get()),
    Case("bare_cr_in_a_value", get(b"X-A: @MARK@\rb\r\n")),
    Case("bare_cr_in_the_request_line", get().replace(b" HTTP", b"\r HTTP", 1)),
    Case("bare_cr_as_line_end", get(b"X-A: @MARK@\rX-B: c\r\n")),
    Case("cr_twice_before_lf", get(b"X-A: @MARK@\r\r\n")),
    Case("nul_in_a_value", get(b"X-A: @MARK@\0b\r\n")),
    Case("nul_at_the_end_of_content_length", post(length(b"%d\0" % LENGTH))),
    Case("control_01_in_a_value", get(b"X-A: @MARK@\x01\r\n")),
    Case("control_1f_in_a_value", get(b"X-A: @MARK@\x1f\r\n")),
    Case("control_7f_in_a_value", get(b"X-A: @MARK@\x7f\r\n")),
    Case("escape_sequence_in_a_value", get(b"X-A: \x1b[31m@MARK@\r\n")),
    Case("obs_fold_by_space", get(b"X-A: @MARK@\r\n b\r\n")),
    Case("obs_fold_by_tab", get(b"X-A: @MARK@\r\n\tb\r\n")),
    Case("obs_fold_of_transfer_encoding", post(b"Transfer-Encoding:\r\n chunked\r\n", body=CHUNKED)),
    Case("obs_fold_before_the_first_field", get(host=b" " + HOST)),
    Case("field_begins_with_a_space", post(CL, b" Transfer-Encoding: chunked\r\n")),
]

NAMES = [
    Case("space_before_colon", get(b"X-A : @MARK@\r\n")),
    Case("tab_before_colon", get(b"X-A\t: @MARK@\r\n")),
    Case("space_before_colon_of_content_length", post(b"Content-Length : %d\r\n" % LENGTH)),
    Case("space_before_colon_of_transfer_encoding",
         post(b"Transfer-Encoding : chunked\r\n", body=CHUNKED)),
    Case("space_before_colon_of_host", get(host=b"Host : podgate.test\r\n")),
    Case("no_colon", get(b"X-A @MARK@\r\n")),
    Case("no_colon_and_no_space", get(b"@MARK@\r\n")),
    Case("empty_name", get(b": @MARK@\r\n")),
    Case("space_in_a_name", get(b"X A: @MARK@\r\n")),
    Case("parenthesis_in_a_name", get(b"X(A): @MARK@\r\n")),
    Case("brace_in_a_name", get(b"X{A}: @MARK@\r\n")),
    Case("quote_in_a_name", get(b'X"A": @MARK@\r\n')),
    Case("nul_in_a_name", get(b"X\0A: @MARK@\r\n")),
    Case("nul_before_a_name", post(CL, b"\0Transfer-Encoding: chunked\r\n")),
    Case("eight_bit_byte_in_a_name", get(b"X\xe9: @MARK@\r\n")),
    Case("lf_inside_a_name", post(CL, b"Transfer-Encoding\n : chunked\r\n")),
]

LENGTHS = [
    Case("content_length_twice_different", post(length(b"0"), CL, body=SMUGGLED)),
    Case("content_length_twice_the_same", post(CL, CL)),
    Case("content_length_as_a_list", post(length(b"%d, %d" % (LENGTH, LENGTH)))),
    Case("content_length_list_of_different", post(length(b"0, %d" % LENGTH))),
    Case("content_length_with_plus", post(length(b"+%d" % LENGTH))),
    Case("content_length_negative", post(length(b"-1"))),
    Case("content_length_empty", post(b"Content-Length:\r\n")),
    Case("content_length_only_space", post(b"Content-Length:   \r\n")),
    Case("content_length_hexadecimal", post(length(b"0x%x" % LENGTH))),
    Case("content_length_with_a_space_inside", post(length(b"1 2"))),
    Case("content_length_two_to_63", post(length(b"9223372036854775808"))),
    Case("content_length_two_to_64_plus", post(length(b"18446744073709551617"))),
    Case("content_length_of_30_digits", post(length(b"9" * 30))),
    Case("content_length_with_a_fraction", post(length(b"%d.0" % LENGTH))),
    Case("content_length_with_an_exponent", post(length(b"1e1"))),
    Case("content_length_in_quotes", post(length(b'"%d"' % LENGTH))),
    Case("content_length_with_a_comma", post(length(b"%d," % LENGTH))),
    Case("content_length_with_a_vertical_tab", post(length(b"%d\x0b" % LENGTH))),
]

CODINGS = [
    Case("content_length_then_transfer_encoding", post(CL, TE, body=CHUNKED)),
    Case("transfer_encoding_then_content_length", post(TE, CL, body=CHUNKED)),
    Case("cl_te_smuggling", post(length(b"6"), TE, body=b"0\r\n\r\n" + SMUGGLED)),
    Case("te_cl_smuggling", post(length(b"4"), TE, body=b"5c\r\n" + SMUGGLED + b"\r\n0\r\n\r\n")),
    Case("transfer_encoding_in_1_0", post(TE, body=CHUNKED, version=b"HTTP/1.0")),
    Case("chunked_twice_in_one_field", coding(b"chunked, chunked")),
    Case("chunked_twice_in_two_fields", post(TE, TE, body=CHUNKED)),
    Case("chunked_not_last", coding(b"chunked, gzip"), (400, 501)),
    Case("chunked_then_identity", coding(b"chunked, identity"), (400, 501)),
    Case("chunked_then_cow", post(TE, b"Transfer-encoding: cow\r\n", body=CHUNKED), (400, 501)),
    Case("transfer_encoding_empty", post(b"Transfer-Encoding:\r\n", body=CHUNKED)),
    Case("transfer_encoding_unknown", coding(b"xchunked"), 501),
    Case("transfer_encoding_gzip_then_chunked", coding(b"gzip, chunked"), 501),
    Case("transfer_encoding_gzip_alone", coding(b"gzip"), (400, 501)),
    Case("transfer_encoding_identity", coding(b"identity"), (400, 501)),
    Case("transfer_encoding_in_quotes", coding(b'"chunked"'), (400, 501)),
    Case("transfer_encoding_with_a_parameter", coding(b"chunked;q=1"), (400, 501)),
    Case("transfer_encoding_with_a_vertical_tab", coding(b"\x0bchunked")),
    Case("transfer_encoding_with_an_eight_bit_byte", coding(b"chu\x96nked"), (400, 501)),
    Case("transfer_encoding_with_nul", coding(b"chunked\0")),
]

CHUNKS = [
    Case("chunk_size_empty", chunks(b"\r\n" + BODY + b"\r\n0\r\n\r\n")),
    Case("chunk_size_with_0x", chunks(b"0x" + CHUNKED)),
    Case("chunk_size_with_plus", chunks(b"+" + CHUNKED)),
    Case("chunk_size_negative", chunks(b"-" + CHUNKED)),
    Case("chunk_size_with_a_space_before", chunks(b" " + CHUNKED)),
    Case("chunk_size_with_a_space_behind", chunks(CHUNKED.replace(b"\r\n", b" \r\n", 1))),
    Case("chunk_size_with_a_tab_behind", chunks(CHUNKED.replace(b"\r\n", b"\t\r\n", 1))),
    Case("chunk_size_not_hexadecimal", chunks(b"g\r\n" + BODY + b"\r\n0\r\n\r\n")),
    Case("chunk_size_with_underscore", chunks(b"1_0\r\n" + BODY + b"\r\n0\r\n\r\n")),
    Case("chunk_size_above_64_bits", chunks(b"f" * 17 + b"\r\n" + BODY)),
    Case("chunk_size_that_wraps_to_a_small_one", chunks(b"1" + b"%016x" % LENGTH + b"\r\n" + BODY)),
    Case("no_crlf_behind_a_chunk", chunks(b"%x\r\n" % LENGTH + BODY + b"0\r\n\r\n")),
    Case("bytes_behind_a_chunk", chunks(b"%x\r\n" % (LENGTH - 1) + BODY + b"\r\n0\r\n\r\n")),
    Case("bare_lf_behind_a_chunk_size", chunks(CHUNKED.replace(b"\r\n", b"\n", 1))),
    Case("bare_lf_behind_a_chunk", chunks(b"%x\r\n" % LENGTH + BODY + b"\n0\r\n\r\n")),
    Case("bare_cr_behind_a_chunk_size", chunks(CHUNKED.replace(b"\r\n", b"\r", 1))),
    Case("chunk_extension_above_256_bytes",
         chunks(CHUNKED.replace(b"\r\n", b";x=" + b"a" * 300 + b"\r\n", 1))),
    Case("nul_in_a_chunk_extension", chunks(CHUNKED.replace(b"\r\n", b";x=\0\r\n", 1))),
    Case("lf_in_a_chunk_extension", chunks(CHUNKED.replace(b"\r\n", b";x=\ny\r\n", 1))),
]

HOSTS = [
    Case("no_host", get(host=b"")),
    Case("host_twice_the_same", get(HOST)),
    Case("host_twice_different", get(b"Host: @MARK@\r\n")),
    Case("host_with_a_space", get(host=b"Host: podgate test\r\n")),
    Case("host_with_a_slash", get(host=b"Host: podgate.test/@MARK@\r\n")),
    Case("host_with_user", get(host=b"Host: user@podgate.test\r\n")),
    Case("host_with_a_word_as_port", get(host=b"Host: podgate.test:http\r\n")),
    Case("host_with_a_port_too_large", get(host=b"Host: podgate.test:99999\r\n")),
    Case("host_with_an_open_bracket", get(host=b"Host: [::1\r\n")),
    Case("host_with_a_comma", get(host=b"Host: a.test,b.test\r\n")),
    Case("host_with_percent", get(host=b"Host: a%00.test\r\n")),
    Case("absolute_form_of_a_foreign_host", get(target=b"http://evil.test/v2/@MARK@/health")),
    Case("absolute_form_of_another_scheme", get(target=b"ftp://podgate.test/v2/@MARK@/health")),
    Case("absolute_form_with_user", get(target=b"http://u@podgate.test/v2/@MARK@/health")),
    Case("absolute_form_without_host", get(target=b"http:///v2/@MARK@/health")),
    Case("authorization_twice", get(AUTH)),
    Case("authorization_twice_different", get(b"Authorization: Bearer @MARK@\r\n")),
    Case("idempotency_key_twice", post(b"Idempotency-Key: a\r\nIdempotency-Key: @MARK@\r\n", CL)),
]

REQUEST_LINES = [
    Case("no_version", b"GET /v2/@MARK@/health\r\n\r\n"),
    Case("only_a_method", b"GET\r\n\r\n"),
    Case("two_spaces_behind_the_method", get().replace(b"GET ", b"GET  ", 1)),
    Case("two_spaces_before_the_version", get().replace(b" HTTP", b"  HTTP", 1)),
    Case("tab_behind_the_method", get().replace(b"GET ", b"GET\t", 1)),
    Case("space_before_the_method", b" " + get()),
    Case("space_behind_the_version", get(version=b"HTTP/1.1 ")),
    Case("four_words", get(version=b"HTTP/1.1 extra")),
    Case("version_in_lower_case", get(version=b"http/1.1")),
    Case("version_without_minor", get(version=b"HTTP/1")),
    Case("version_with_two_digits", get(version=b"HTTP/1.10")),
    Case("version_with_a_comma", get(version=b"HTTP/1,1")),
    Case("version_of_another_protocol", get(version=b"ICY/1.1")),
    Case("version_2_0", get(version=b"HTTP/2.0"), 505),
    Case("version_0_9", get(version=b"HTTP/0.9"), 505),
    Case("version_3_0", get(version=b"HTTP/3.0"), 505),
    Case("preface_of_http_2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, 505)),
    Case("hello_of_tls", bytes.fromhex("16030100a5010000a10303") + b"@MARK@" + b"\0" * 40),
    Case("two_empty_lines_before", b"\r\n\r\n" + get()),
    Case("method_with_a_parenthesis", get().replace(b"GET", b"G(T", 1)),
    Case("method_with_nul", get().replace(b"GET", b"G\0T", 1)),
    Case("control_in_the_target", get(target=b"/v2/@MARK@\x01/health")),
    Case("nul_in_the_target", get(target=b"/v2/@MARK@\0/health")),
    Case("eight_bit_byte_in_the_target", get(target=b"/v2/@MARK@\xc3\xa9/health")),
    Case("fragment_in_the_target", get(target=b"/v2/@MARK@/health#x")),
    Case("target_without_slash", get(target=b"v2/@MARK@/health")),
    Case("binary_noise", b"\x80\xff\x00\x13@MARK@\r\n\r\n"),
]

TOO_LARGE = [
    Case("target_above_8_kib", get(target=b"/v2/@MARK@/" + b"a" * 9000), 414),
    Case("one_field_above_32_kib", get(b"X-A: @MARK@" + b"a" * 40000 + b"\r\n"), 431),
    Case("fields_above_32_kib", get(*[b"X-%d: " % i + b"b" * 900 + b"\r\n" for i in range(50)]), 431),
    Case("more_than_100_fields", get(*[b"X-%d: @MARK@\r\n" % i for i in range(120)]), 431),
    Case("one_field_of_200_kib", get(b"X-A: @MARK@" + b"a" * 200_000 + b"\r\n"), 431),
    Case("twenty_thousand_fields", get(b"X-A: @MARK@\r\n" * 20_000), 431),
    Case("a_name_above_32_kib", get(b"X" * 40000 + b": @MARK@\r\n"), 431),
    Case("announced_body_too_large", post(length(b"10485761"), body=b""), 413),
    Case("announced_body_of_exabytes", post(length(b"9223372036854775807"), body=b""), 413),
]

KEPT = [
    Case("unknown_method", get().replace(b"GET", b"BREW", 1), 501, keeps=True),
    Case("method_in_lower_case", get().replace(b"GET", b"get", 1), 501, keeps=True),
    Case("trace", get().replace(b"GET", b"TRACE", 1), (405, 501), keeps=True),
    Case("wrong_method", get().replace(b"GET", b"DELETE", 1), 405, keeps=True),
    Case("expectation_unknown", get(b"Expect: @MARK@\r\n"), 417, keeps=True),
    Case("content_encoding_gzip", post(b"Content-Encoding: gzip\r\n", length(b"0"), body=b""), 415,
         keeps=True),
]

CASES = (LINES + NAMES + LENGTHS + CODINGS + CHUNKS + HOSTS + REQUEST_LINES + TOO_LARGE + KEPT)
