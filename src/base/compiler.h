/* What the compiler is told beyond the language. */
#ifndef PODGATE_BASE_COMPILER_H
#define PODGATE_BASE_COMPILER_H

/* At a prototype: ignoring the result is a warning, and an error in ./check. */
#define MUST_CHECK __attribute__((warn_unused_result))

/* At a parameter that a callback's type demands and this callback doesn't need. */
#define UNUSED __attribute__((unused))

/* Number of elements of an array (never of a pointer). */
#define ARRAY_LENGTH(array) (sizeof(array) / sizeof((array)[0]))

/* Which way a branch of the request path nearly always goes. */
#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

#endif
