/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The C client's JSON (client/json.h): values lie inside the text, strings come out as UTF-8 that fits, what is written is
 * read back, and base64 decodes to what was encoded.
 */
#include "json.h"

#include <errno.h>

#include "fuzz.h"

static void string(const struct prl_json_value *value)
{
    ssize_t bytes = prl_json_string(value, NULL, 0);
    struct prl_json_writer writer;
    struct prl_json_reader reader;
    struct prl_json_value again;
    char key[PRL_JSON_KEY_MAX], short_one[5], *text, *out;
    size_t room;

    assert(bytes >= 0 && (size_t)bytes <= value->bytes); /* an escape is never shorter than what it means */
    text = malloc((size_t)bytes + 1);
    assert(text && prl_json_string(value, text, (size_t)bytes + 1) == bytes);
    assert(strlen(text) == (size_t)bytes); /* no zero is in it */
    assert(prl_json_string(value, short_one, sizeof(short_one)) == bytes);
    assert(strlen(short_one) < sizeof(short_one) && !strncmp(short_one, text, strlen(short_one)));
    room = (size_t)bytes * 6 + sizeof("{\"k\":\"\"}");
    out = malloc(room);
    assert(out);
    prl_json_write(&writer, out, room);
    prl_json_put(&writer, "{\"k\":");
    prl_json_put_string(&writer, text);
    prl_json_put(&writer, "}");
    assert(writer.error == 0);
    prl_json_read(&reader, out, (size_t)(writer.at - writer.start));
    assert(prl_json_next(&reader, key, &again) == 1 && !strcmp(key, "k") && again.type == PRL_JSON_STRING);
    assert(prl_json_string(&again, out, 0) == bytes);
    free(out);
    out = malloc((size_t)bytes + 1);
    prl_json_write(&writer, out,
                   (size_t)bytes + 1); /* one byte too few: refused, and nothing beyond it is written */
    prl_json_put_string(&writer, text);
    assert(writer.error == -EMSGSIZE);
    free(out);
    free(text);
}

static void base64(const uint8_t *data, size_t bytes)
{
    size_t room = (bytes + 2) / 3 * 4 + 2;
    char *out = malloc(room);
    struct prl_json_writer writer;

    assert(out);
    prl_json_write(&writer, out, room);
    prl_json_put_base64(&writer, data, bytes);
    assert(writer.error == 0 && writer.at == writer.end);
    assert(prl_base64_decode(out + 1, room - 2) == (ssize_t)bytes && !memcmp(out + 1, data, bytes));
    free(out);
    out = (char *)fuzz_exact(data, bytes);
    ssize_t decoded = prl_base64_decode(out, bytes);
    assert(decoded == -EPROTO || (bytes % 4 == 0 && decoded >= 0 && (size_t)decoded <= bytes / 4 * 3));
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    char *text = (char *)fuzz_exact(data, bytes), key[PRL_JSON_KEY_MAX];
    struct prl_json_reader reader;
    struct prl_json_value value;
    size_t members = 0;
    int more;

    prl_json_read(&reader, text, bytes);
    while ((more = prl_json_next(&reader, key, &value)) == 1) {
        assert(++members <= bytes && memchr(key, 0, sizeof(key)));
        switch (value.type) {
        case PRL_JSON_STRING:
            assert(value.text >= text && value.text + value.bytes < text + bytes);
            string(&value);
            break;
        case PRL_JSON_ARRAY:
        case PRL_JSON_OBJECT:
            assert(value.text >= text && value.text + value.bytes <= text + bytes && value.bytes >= 2);
            break;
        default:
            break;
        }
    }
    assert(more == 0 || more == -EPROTO);
    base64(data, bytes);
    free(text);
    return 0;
}
