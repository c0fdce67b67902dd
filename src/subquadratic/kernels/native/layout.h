// Where the fields of a struct lie. Python mirrors the arguments of each kernel (ctypes.Structure): library.py compares both when it loads
// the library, so that neither a library of another version nor a field that was added on one side alone is ever read.
#ifndef SUBQUADRATIC_LAYOUT_H
#define SUBQUADRATIC_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    const char *name; // "" of the whole struct; null after the last field
    int64_t at, bytes;
} field_layout;

// Macros, since a function is given neither the name of a field nor where it lies.
#define STRUCT(type) {"", 0, sizeof(type)}
#define FIELD(type, name) {#name, offsetof(type, name), sizeof(((type *)0)->name)}
#define END {0, 0, 0}

#endif
