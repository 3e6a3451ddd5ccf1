/* Which function serves which operation: the one table that names them all. */
#ifndef PODGATE_GATEWAY_OPERATION_TABLE_H
#define PODGATE_GATEWAY_OPERATION_TABLE_H

#include "gateway/request.h"

/* By enum route_operation. */
extern const struct operation operation_table[ROUTE_OPERATION_COUNT];

#endif
