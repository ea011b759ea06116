/* SPDX-License-Identifier: BSD-2-Clause */
#include "io/kernel_words.h"

#include <bpf/libbpf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/error.h"

int prl_kernel_fail(char *error, int code, const char *format, ...)
{
    va_list args;

    if (!error)
        return code;
    va_start(args, format);
    int used = vsnprintf(error, PRL_ERROR_BYTES, format, args);
    va_end(args);
    if (used >= 0 && used < PRL_ERROR_BYTES)
        snprintf(error + used, (size_t)(PRL_ERROR_BYTES - used), ": %s", strerror(-code));
    return code;
}

/* libbpf prints what it does not return: the kernel's words about a request of netlink's (libbpf's src/nlattr.c). */
#define WORDS_MARK "Kernel error message: "

char *prl_kernel_words(void)
{
    static _Thread_local char words[PRL_ERROR_BYTES / 2];
    return words;
}

static int keep_words(enum libbpf_print_level level, const char *format, va_list args)
{
    char line[PRL_ERROR_BYTES];

    if (level == LIBBPF_WARN && strstr(format, WORDS_MARK) && vsnprintf(line, sizeof(line), format, args) > 0) {
        const char *from = strstr(line, WORDS_MARK);
        if (from) {
            from += strlen(WORDS_MARK);
            snprintf(prl_kernel_words(), PRL_ERROR_BYTES / 2, "%.*s", (int)strcspn(from, "\n"), from);
        }
    }
    return 0;
}

static int print_all(enum libbpf_print_level level, const char *format, va_list args)
{
    va_list again;

    va_copy(again, args);
    keep_words(level, format, again);
    va_end(again);
    return vfprintf(stderr, format, args);
}

void prl_kernel_set_printer(void)
{
    libbpf_set_print(getenv("PRL_LIBBPF_DEBUG") ? print_all : keep_words);
}
