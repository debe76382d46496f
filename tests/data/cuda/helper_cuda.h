// The shared header of our source in the shape of NVIDIA's samples: a call must succeed.
#pragma once
#include <cstdio>
#include <cuda_runtime.h>

#define OK(call)                                                                                                \
    do {                                                                                                        \
        cudaError_t error = call;                                                                               \
        if (error != cudaSuccess) {                                                                             \
            printf("%s returned %d\n-> %s\nResult = FAIL\n", #call, (int)error, cudaGetErrorString(error));     \
            return 1;                                                                                           \
        }                                                                                                       \
    } while (0)
