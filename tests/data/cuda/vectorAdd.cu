// In the shape of NVIDIA's vectorAdd, in our own words: 50000 sums, each checked.
#include "helper_cuda.h"

__global__ void vector_add(const float *a, const float *b, float *c, unsigned long long n) {
    unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}

int main() {
    const unsigned long long n = 50000;
    const size_t bytes = n * sizeof(float);
    static float a[n], b[n], c[n];
    for (unsigned long long i = 0; i < n; i++) {
        a[i] = i;
        b[i] = 2 * i;
    }
    float *left, *right, *sums;
    OK(cudaMalloc(&left, bytes));
    OK(cudaMalloc(&right, bytes));
    OK(cudaMalloc(&sums, bytes));
    OK(cudaMemcpy(left, a, bytes, cudaMemcpyHostToDevice));
    OK(cudaMemcpy(right, b, bytes, cudaMemcpyHostToDevice));
    vector_add<<<(n + 255) / 256, 256>>>(left, right, sums, n);
    OK(cudaGetLastError());
    OK(cudaMemcpy(c, sums, bytes, cudaMemcpyDeviceToHost));
    for (unsigned long long i = 0; i < n; i++) {
        if (c[i] != a[i] + b[i]) {
            printf("wrong at %llu\n", i);
            return 1;
        }
    }
    printf("Test PASSED\n");
    return 0;
}
