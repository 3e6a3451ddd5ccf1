/* The chunked transfer coding (RFC 9112 section 7.1): a strict decoder that goes on at any byte and
 * never copies, and the chunk headers for sending.
 *
 *     struct view input = what was read, data;
 *     for (;;) {
 *         switch (http_chunked_next(&decoder, &input, &data)) {
 *         case HTTP_CHUNKED_DATA:  take data; continue;
 *         case HTTP_CHUNKED_MORE:  read more (input is used up);
 *         case HTTP_CHUNKED_END:   input begins with the next message;
 *         case HTTP_CHUNKED_FAULT: http_chunked_detail(&decoder), close;
 *         }
 *     }
 */
#ifndef PODGATE_FORMAT_HTTP_CHUNKED_H
#define PODGATE_FORMAT_HTTP_CHUNKED_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/compiler.h"

enum {
    HTTP_CHUNK_EXTENSION_MAXIMUM = 256,       /* bytes between size and CRLF, per chunk */
    HTTP_CHUNKED_TRAILER_MAXIMUM = 8 * 1024,  /* bytes of all trailer lines */
    HTTP_CHUNK_HEADER_MAXIMUM = 18,           /* what http_chunk_format_header() may write */
};

enum http_chunked_step { HTTP_CHUNKED_MORE, HTTP_CHUNKED_DATA, HTTP_CHUNKED_END,
                         HTTP_CHUNKED_FAULT };

enum http_chunked_fault {
    HTTP_CHUNKED_NO_FAULT,
    HTTP_CHUNKED_BAD_SIZE,      /* no hexadecimal digit, or something else behind the digits */
    HTTP_CHUNKED_SIZE_TOO_LARGE, /* more than 16 digits, or all chunks together 2^63 or more */
    HTTP_CHUNKED_BAD_EXTENSION, /* control byte, bare CR or LF */
    HTTP_CHUNKED_EXTENSION_TOO_LONG,
    HTTP_CHUNKED_NO_CRLF,       /* behind a size or behind the data */
    HTTP_CHUNKED_BAD_TRAILER,
    HTTP_CHUNKED_TRAILER_TOO_LARGE,
    HTTP_CHUNKED_FAULT_COUNT
};

/* Embedded in its connection; 24 bytes. */
struct http_chunked {
    uint64_t remaining; /* of the current chunk's data */
    uint64_t total;     /* data bytes announced so far */
    uint32_t counted;   /* digits, extension bytes or trailer bytes so far */
    uint8_t phase;
    uint8_t fault; /* enum http_chunked_fault */
};

/* Makes the decoder ready for the first byte of a body. */
void http_chunked_begin(struct http_chunked *decoder);

/* Takes the next piece off the front of `input`. DATA: `data` is a non-empty run of body bytes
 * inside the input. MORE: the input is used up. END: the last chunk and the trailers were read,
 * what is left of `input` doesn't belong to the body. FAULT: the connection can't go on; it stays
 * the answer of every later call. Trailer fields are checked like head fields and dropped. */
MUST_CHECK enum http_chunked_step http_chunked_next(struct http_chunked *decoder,
                                                    struct view *input, struct view *data);

/* One sentence on the fault for the caller. */
struct view http_chunked_detail(const struct http_chunked *decoder);

/* A word for logs and counters, such as "chunk_size". */
struct view http_chunked_name(const struct http_chunked *decoder);

/* Writes the header of a chunk with `size` data bytes (size in hexadecimal, CRLF) into `text`,
 * which has room for HTTP_CHUNK_HEADER_MAXIMUM bytes, and gives its length. `size` 0 is the last
 * chunk; a second CRLF, after the data or the trailers, is the sender's. */
size_t http_chunk_format_header(char *text, uint64_t size);

/* What ends a body without trailers: "0\r\n\r\n". */
struct view http_chunked_last(void);

#endif
