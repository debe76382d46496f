// In the shape of NVIDIA's deviceQuery, in our own words: what CUDA's runtime says of each device.
#include "helper_cuda.h"

int main() {
    int count = 0, driver = 0, runtime = 0;
    printf("deviceQuery Starting...\n\n");
    OK(cudaGetDeviceCount(&count));
    printf("Detected %d CUDA Capable device(s)\n", count);
    OK(cudaDriverGetVersion(&driver));
    OK(cudaRuntimeGetVersion(&runtime));
    for (int n = 0; n < count; n++) {
        int major = 0, minor = 0;
        cudaDeviceProp is;
        OK(cudaSetDevice(n));
        OK(cudaGetDeviceProperties(&is, n));
        OK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, n));
        OK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, n));
        printf("\nDevice %d: \"%s\"\n", n, is.name);
        printf("  CUDA Capability Major/Minor version number:    %d.%d\n", major, minor);
        printf("  Total amount of global memory:                 %zu MBytes\n", is.totalGlobalMem >> 20);
    }
    printf("\ndeviceQuery, CUDA Driver = CUDART, CUDA Driver Version = %d.%d, CUDA Runtime Version = %d.%d, "
           "NumDevs = %d\nResult = PASS\n",
           driver / 1000, driver % 100 / 10, runtime / 1000, runtime % 100 / 10, count);
    return 0;
}
