/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * As much JSON (RFC 8259) as the control socket needs: a reader of one object that walks over its members, strict
 * and bounded, and a writer of strings. Nothing is allocated. Functions return 0 or -errno: -EPROTO for what is no
 * JSON, -EMSGSIZE for what does not fit.
 */
#ifndef PRL_CLIENT_JSON_H
#define PRL_CLIENT_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PRL_JSON_DEPTH_MAX 16
#define PRL_JSON_KEY_MAX 32 /* a longer key is none of ours: read as "" */

enum prl_json_type {
    PRL_JSON_NULL,
    PRL_JSON_BOOL,
    PRL_JSON_INTEGER,
    PRL_JSON_NUMBER,
    PRL_JSON_STRING,
    PRL_JSON_ARRAY,
    PRL_JSON_OBJECT
};

/* A value in the text that is being read; `text` is valid as long as that is. */
struct prl_json_value {
    enum prl_json_type type;
    const char *text; /* a string: what is between the quotes, still escaped; an array or object: all of it */
    size_t bytes;
    bool yes;         /* PRL_JSON_BOOL */
    uint64_t integer; /* PRL_JSON_INTEGER: its magnitude */
    bool negative;
};

struct prl_json_reader {
    const char *at, *end;
    bool begun;
};

void prl_json_read(struct prl_json_reader *reader, const char *text, size_t bytes);

/* The next member of the object: 1 with key and value, 0 at its end (nothing follows it), or -EPROTO. */
int prl_json_next(struct prl_json_reader *reader, char key[PRL_JSON_KEY_MAX], struct prl_json_value *value);

/*
 * A string's bytes, without escapes, as UTF-8; U+0000 is refused. Returns their number; `out` gets as many as
 * fit, whole characters only, and a terminating zero.
 */
ssize_t prl_json_string(const struct prl_json_value *value, char *out, size_t size);

struct prl_json_writer {
    char *start, *at, *end;
    int error; /* latched: 0, -EMSGSIZE, or -EILSEQ: a string that is not UTF-8 */
};

void prl_json_write(struct prl_json_writer *writer, char *out, size_t size);
void prl_json_put(struct prl_json_writer *writer, const char *raw);
void prl_json_put_string(struct prl_json_writer *writer, const char *text);
void prl_json_put_number(struct prl_json_writer *writer, uint64_t number);
/* A string of base64 (RFC 4648, section 4). */
void prl_json_put_base64(struct prl_json_writer *writer, const uint8_t *data, size_t bytes);

/* Decodes base64 in place; returns the number of bytes, or -EPROTO. */
ssize_t prl_base64_decode(char *text, size_t bytes);

#endif
