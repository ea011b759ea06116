/* SPDX-License-Identifier: BSD-2-Clause */
/* Everything that Python may call: the input of build_ffi.py, preprocessed with PRL_CFFI defined. */
#include "core/serial.h"
#include "core/hold.h"
#include "core/primary.h"
#include "core/secondary.h"
#include "core/ownership.h"
#include "prl_abi.h"
#include "wire.h"
#include "kernel.h"
#include "packet.h"
#include "elide.h"
#include "link.h"
#include "datapath.h"
