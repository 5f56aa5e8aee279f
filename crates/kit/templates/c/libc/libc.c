// The few functions of a C library that the bindings call. A policy has no operating system under
// it, so a real C library would bring WASI imports that no host gives.
//
// Memory is handed out and never taken back: an instance lives for one tick, and its memory goes
// with it. The host bounds it (--memory-limit).

#include "stdlib.h"
#include "string.h"

#include <stdint.h>

#define PAGE 65536u
#define ALIGN 16u

// The linker puts it behind the data and the stack.
extern unsigned char __heap_base;

static uintptr_t next;

// The size of a block stands in front of it, for realloc.
void *malloc(size_t size) {
    if (next == 0) {
        next = ((uintptr_t)&__heap_base + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1);
    }
    if (size > SIZE_MAX - next - 2 * ALIGN) {
        return NULL;
    }
    const uintptr_t block = next + ALIGN;
    const uintptr_t end = (block + size + ALIGN - 1) & ~(uintptr_t)(ALIGN - 1);
    const uintptr_t have = __builtin_wasm_memory_size(0) * PAGE;
    if (end > have && __builtin_wasm_memory_grow(0, (end - have + PAGE - 1) / PAGE) == SIZE_MAX) {
        return NULL;
    }
    *(size_t *)next = size;
    next = end;
    return (void *)block;
}

void *calloc(size_t count, size_t size) {
    if (size != 0 && count > SIZE_MAX / size) {
        return NULL;
    }
    // Fresh memory is zero, and no block is handed out twice.
    return malloc(count * size);
}

void *realloc(void *old, size_t size) {
    const size_t had = old == NULL ? 0 : *(size_t *)((uintptr_t)old - ALIGN);
    if (old != NULL && size <= had) {
        return old;
    }
    void *block = malloc(size);
    if (block != NULL && old != NULL) {
        memcpy(block, old, had);
    }
    return block;
}

void free(void *block) { (void)block; }

_Noreturn void abort(void) { __builtin_trap(); }

void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    return memmove(to, from, size);
}

void *memmove(void *to, const void *from, size_t size) {
    unsigned char *t = to;
    const unsigned char *f = from;
    if (t < f) {
        while (size-- > 0) {
            *t++ = *f++;
        }
    } else {
        while (size-- > 0) {
            t[size] = f[size];
        }
    }
    return to;
}

void *memset(void *block, int byte, size_t size) {
    unsigned char *b = block;
    while (size-- > 0) {
        *b++ = (unsigned char)byte;
    }
    return block;
}

int memcmp(const void *left, const void *right, size_t size) {
    const unsigned char *l = left, *r = right;
    for (size_t i = 0; i < size; i++) {
        if (l[i] != r[i]) {
            return l[i] - r[i];
        }
    }
    return 0;
}

size_t strlen(const char *text) {
    size_t len = 0;
    while (text[len] != 0) {
        len++;
    }
    return len;
}
