/* SPDX-License-Identifier: BSD-2-Clause */
/* What is said about requests that the kernel refused. */
#ifndef PRL_IO_KERNEL_WORDS_H
#define PRL_IO_KERNEL_WORDS_H

/* Writes "<what>: <text of code>" and returns code (negative errno). */
__attribute__((format(printf, 3, 4))) int prl_kernel_fail(char *error, int code, const char *format, ...);

/* What the kernel said last of a request that it refused (its extended acknowledgement), or "". The caller clears it. */
char *prl_kernel_words(void);

/* Failures are reported through `error`; libbpf's own words, with the verifier's, only on request. */
void prl_kernel_set_printer(void);

#endif /* PRL_IO_KERNEL_WORDS_H */
