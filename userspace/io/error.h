/* SPDX-License-Identifier: BSD-2-Clause */
/* Words about what failed, for a person. */
#ifndef PRL_IO_ERROR_H
#define PRL_IO_ERROR_H

#define PRL_ERROR_BYTES 256 /* of every buffer that is called `error` or `words` */

#endif /* PRL_IO_ERROR_H */
