/* SPDX-License-Identifier: BSD-2-Clause */
#include "json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SURROGATE_HIGH 0xd800u
#define SURROGATE_LOW 0xdc00u
#define SURROGATE_END 0xe000u

/* ---- UTF-8 (RFC 3629) ---- */

/* Bytes of the character at `text`, or 0: malformed, overlong, a surrogate, or beyond U+10FFFF. */
static size_t utf8_length(const char *text, size_t left)
{
    const uint8_t *at = (const uint8_t *)text;
    uint32_t code;
    size_t length;

    if (!left)
        return 0;
    if (at[0] < 0x80)
        return 1;
    length = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
    if (at[0] < 0xc2 || at[0] > 0xf4 || length > left)
        return 0;
    code = at[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (at[i] & 0x3f);
    }
    if ((length == 3 && code < 0x800) || (length == 4 && (code < 0x10000 || code > 0x10ffff)))
        return 0;
    return code >= SURROGATE_HIGH && code < SURROGATE_END ? 0 : length;
}

static size_t utf8_encode(uint32_t code, char out[4])
{
    static const uint8_t lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    size_t length = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;

    for (size_t i = length - 1; i > 0; i--, code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3f));
    out[0] = (char)(lead[length] | code);
    return length;
}

/* ---- reading ---- */

void prl_json_read(struct prl_json_reader *reader, const char *text, size_t bytes)
{
    *reader = (struct prl_json_reader){.at = text, .end = text + bytes};
}

static void skip_space(struct prl_json_reader *reader)
{
    while (reader->at < reader->end &&
           (*reader->at == ' ' || *reader->at == '\t' || *reader->at == '\n' || *reader->at == '\r'))
        reader->at++;
}

static bool take(struct prl_json_reader *reader, char wanted)
{
    skip_space(reader);
    if (reader->at == reader->end || *reader->at != wanted)
        return false;
    reader->at++;
    return true;
}

static int hex4(const char *text, size_t left, uint32_t *code)
{
    static const char digits[] = "0123456789abcdef";

    if (left < 4)
        return -EPROTO;
    *code = 0;
    for (int i = 0; i < 4; i++) {
        const char *found =
            text[i] ? strchr(digits, text[i] >= 'A' && text[i] <= 'F' ? text[i] | 0x20 : text[i]) : NULL;

        if (!found)
            return -EPROTO;
        *code = *code << 4 | (uint32_t)(found - digits);
    }
    return 0;
}

/* One character, escaped or not. Returns the bytes that it takes in the text, or -EPROTO. */
static ssize_t character(const char *text, size_t left, char out[4], size_t *out_bytes)
{
    static const char escapes[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    const char *escape;
    uint32_t code, low;

    if (*text != '\\') {
        size_t length = utf8_length(text, left);

        if (!length || (uint8_t)*text < 0x20)
            return -EPROTO;
        memcpy(out, text, length);
        *out_bytes = length;
        return (ssize_t)length;
    }
    if (left < 2)
        return -EPROTO;
    escape = text[1] ? strchr(escapes, text[1]) : NULL;
    if (escape) {
        out[0] = meant[escape - escapes];
        *out_bytes = 1;
        return 2;
    }
    if (text[1] != 'u' || hex4(text + 2, left - 2, &code) || code == 0 ||
        (code >= SURROGATE_LOW && code < SURROGATE_END))
        return -EPROTO;
    if (code < SURROGATE_HIGH || code >= SURROGATE_END) {
        *out_bytes = utf8_encode(code, out);
        return 6;
    }
    if (left < 12 || text[6] != '\\' || text[7] != 'u' || hex4(text + 8, left - 8, &low) || low < SURROGATE_LOW ||
        low >= SURROGATE_END)
        return -EPROTO;
    *out_bytes = utf8_encode(0x10000 + ((code - SURROGATE_HIGH) << 10) + (low - SURROGATE_LOW), out);
    return 12;
}

static int read_string(struct prl_json_reader *reader, struct prl_json_value *value)
{
    char out[4];
    size_t bytes;

    value->type = PRL_JSON_STRING;
    value->text = reader->at;
    while (reader->at < reader->end && *reader->at != '"') {
        ssize_t taken = character(reader->at, (size_t)(reader->end - reader->at), out, &bytes);

        if (taken < 0)
            return (int)taken;
        reader->at += taken;
    }
    value->bytes = (size_t)(reader->at - value->text);
    return take(reader, '"') ? 0 : -EPROTO;
}

static size_t read_digits(struct prl_json_reader *reader)
{
    const char *from = reader->at;

    while (reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9')
        reader->at++;
    return (size_t)(reader->at - from);
}

static int read_number(struct prl_json_reader *reader, struct prl_json_value *value)
{
    const char *digits;

    value->type = PRL_JSON_INTEGER;
    value->integer = 0;
    value->negative = *reader->at == '-';
    reader->at += value->negative;
    digits = reader->at;
    if (!read_digits(reader) || (*digits == '0' && reader->at - digits > 1))
        return -EPROTO;
    for (const char *at = digits; at < reader->at; at++) {
        uint64_t digit = (uint64_t)(*at - '0');

        if (value->integer > (UINT64_MAX - digit) / 10)
            value->type = PRL_JSON_NUMBER; /* larger than anything that we ask for */
        value->integer = value->integer * 10 + digit;
    }
    if (reader->at < reader->end && *reader->at == '.') {
        value->type = PRL_JSON_NUMBER;
        reader->at++;
        if (!read_digits(reader))
            return -EPROTO;
    }
    if (reader->at < reader->end && (*reader->at == 'e' || *reader->at == 'E')) {
        value->type = PRL_JSON_NUMBER;
        reader->at++;
        if (reader->at < reader->end && (*reader->at == '+' || *reader->at == '-'))
            reader->at++;
        if (!read_digits(reader))
            return -EPROTO;
    }
    return 0;
}

static int read_word(struct prl_json_reader *reader, struct prl_json_value *value)
{
    static const struct {
        const char *word;
        enum prl_json_type type;
        bool yes;
    } words[] = {{"true", PRL_JSON_BOOL, true}, {"false", PRL_JSON_BOOL, false}, {"null", PRL_JSON_NULL, false}};

    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
        size_t length = strlen(words[i].word);

        if ((size_t)(reader->end - reader->at) >= length && !memcmp(reader->at, words[i].word, length)) {
            reader->at += length;
            value->type = words[i].type;
            value->yes = words[i].yes;
            return 0;
        }
    }
    return -EPROTO;
}

static int read_scalar(struct prl_json_reader *reader, struct prl_json_value *value)
{
    skip_space(reader);
    if (reader->at == reader->end)
        return -EPROTO;
    if (*reader->at == '"') {
        reader->at++;
        return read_string(reader, value);
    }
    if (*reader->at == '-' || (*reader->at >= '0' && *reader->at <= '9'))
        return read_number(reader, value);
    return read_word(reader, value);
}

static int read_key(struct prl_json_reader *reader, struct prl_json_value *key)
{
    if (!take(reader, '"'))
        return -EPROTO;
    if (read_string(reader, key))
        return -EPROTO;
    return take(reader, ':') ? 0 : -EPROTO;
}

/* Walks over an array or object, whose opening bracket is taken, without recursion. */
static int skip_nested(struct prl_json_reader *reader, char closing)
{
    char expected[PRL_JSON_DEPTH_MAX] = {closing};
    struct prl_json_value ignored;
    int depth = 1;
    bool first = true;

    while (depth > 0) {
        if (take(reader, expected[depth - 1])) {
            depth--;
            first = false;
            continue;
        }
        if (!first && !take(reader, ','))
            return -EPROTO;
        if (expected[depth - 1] == '}' && read_key(reader, &ignored))
            return -EPROTO;
        first = take(reader, '[');
        if (first || take(reader, '{')) {
            if (depth == PRL_JSON_DEPTH_MAX)
                return -EPROTO;
            expected[depth++] = first ? ']' : '}';
            first = true;
        } else if (read_scalar(reader, &ignored)) {
            return -EPROTO;
        }
    }
    return 0;
}

static int read_value(struct prl_json_reader *reader, struct prl_json_value *value)
{
    bool is_array;
    int error;

    skip_space(reader);
    value->text = reader->at;
    is_array = take(reader, '[');
    if (!is_array && !take(reader, '{'))
        return read_scalar(reader, value);
    value->type = is_array ? PRL_JSON_ARRAY : PRL_JSON_OBJECT;
    error = skip_nested(reader, is_array ? ']' : '}');
    value->bytes = (size_t)(reader->at - value->text);
    return error;
}

int prl_json_next(struct prl_json_reader *reader, char key[PRL_JSON_KEY_MAX], struct prl_json_value *value)
{
    struct prl_json_value name = {0};
    bool first = !reader->begun;

    *value = (struct prl_json_value){0};
    if (first && !take(reader, '{'))
        return -EPROTO;
    reader->begun = true;
    if (take(reader, '}')) {
        skip_space(reader);
        return reader->at == reader->end ? 0 : -EPROTO;
    }
    if (!first && !take(reader, ','))
        return -EPROTO;
    if (read_key(reader, &name) || read_value(reader, value))
        return -EPROTO;
    if (prl_json_string(&name, key, PRL_JSON_KEY_MAX) >= PRL_JSON_KEY_MAX)
        key[0] = '\0';
    return 1;
}

ssize_t prl_json_string(const struct prl_json_value *value, char *out, size_t size)
{
    size_t at = 0, whole = 0, used = 0;
    char one[4];

    while (at < value->bytes) {
        size_t bytes = 0;
        ssize_t taken = character(value->text + at, value->bytes - at, one, &bytes);

        if (taken < 0)
            return taken;
        at += (size_t)taken;
        if (whole == used && used + bytes < size) {
            memcpy(out + used, one, bytes);
            used += bytes;
        }
        whole += bytes;
    }
    if (size)
        out[used] = '\0';
    return (ssize_t)whole;
}

/* ---- writing ---- */

void prl_json_write(struct prl_json_writer *writer, char *out, size_t size)
{
    writer->start = writer->at = out;
    writer->end = out + size;
    writer->error = 0;
}

static void put(struct prl_json_writer *writer, const char *bytes, size_t count)
{
    if (writer->error)
        return;
    if ((size_t)(writer->end - writer->at) < count) {
        writer->error = -EMSGSIZE;
        return;
    }
    memcpy(writer->at, bytes, count);
    writer->at += count;
}

void prl_json_put(struct prl_json_writer *writer, const char *raw)
{
    put(writer, raw, strlen(raw));
}

void prl_json_put_string(struct prl_json_writer *writer, const char *text)
{
    size_t left = strlen(text);

    put(writer, "\"", 1);
    while (left) {
        size_t length = utf8_length(text, left);
        char escaped[8];

        if (!length) {
            writer->error = writer->error ? writer->error : -EILSEQ;
            return;
        }
        if ((uint8_t)*text < 0x20 || *text == '"' || *text == '\\')
            put(writer, escaped,
                (size_t)snprintf(escaped, sizeof(escaped), "\\u%04x", (unsigned int)(uint8_t)*text));
        else
            put(writer, text, length);
        text += length;
        left -= length;
    }
    put(writer, "\"", 1);
}

void prl_json_put_number(struct prl_json_writer *writer, uint64_t number)
{
    char digits[24];

    put(writer, digits, (size_t)snprintf(digits, sizeof(digits), "%llu", (unsigned long long)number));
}

/* ---- base64 ---- */

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void prl_json_put_base64(struct prl_json_writer *writer, const uint8_t *data, size_t bytes)
{
    put(writer, "\"", 1);
    for (size_t at = 0; at < bytes; at += 3) {
        size_t have = bytes - at < 3 ? bytes - at : 3;
        uint32_t bits = (uint32_t)data[at] << 16;
        char four[4];

        if (have > 1)
            bits |= (uint32_t)data[at + 1] << 8;
        if (have > 2)
            bits |= data[at + 2];
        for (size_t i = 0; i < 4; i++)
            four[i] = i <= have ? base64_digits[bits >> (18 - 6 * i) & 0x3f] : '=';
        put(writer, four, sizeof(four));
    }
    put(writer, "\"", 1);
}

ssize_t prl_base64_decode(char *text, size_t bytes)
{
    size_t used = 0, padding = 0;
    uint32_t bits = 0;

    if (bytes % 4)
        return -EPROTO;
    if (bytes)
        padding = (size_t)(text[bytes - 1] == '=') + (size_t)(text[bytes - 1] == '=' && text[bytes - 2] == '=');
    for (size_t at = 0; at < bytes; at++) {
        const char *digit = text[at] ? strchr(base64_digits, text[at]) : NULL;
        bool is_padding = at >= bytes - padding;

        if (!digit && !is_padding)
            return -EPROTO;
        bits = bits << 6 | (is_padding ? 0 : (uint32_t)(digit - base64_digits));
        if (at % 4 < 3)
            continue;
        for (int shift = 16; shift >= 0; shift -= 8)
            text[used++] = (char)(uint8_t)(bits >> shift);
        bits = 0;
    }
    return (ssize_t)(used - padding);
}
