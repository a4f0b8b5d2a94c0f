/* The load generator over TLS: load.c, whole, on another transport. */
#define _GNU_SOURCE
#include "client.h"
#include "transport_tls.h"

#define LOAD_TRANSPORT transport_tls
#include "load.c"
