// What a warp asks of a tensor core, and copies that run while it computes (from compute capability
// 8.0 on). Each is one instruction that CUDA C has no name for, so it is written in PTX.

#ifdef __CUDA_ARCH__

// Starts to copy 16 bytes to shared memory, both addresses multiples of 16; zeros if `there` is false.
__device__ __forceinline__ void cp_async16(void* to, const void* from, bool there) {
  unsigned address = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n"
               ::"r"(address), "l"(from), "r"(there ? 16 : 0));
}

// The same; but they also stay in the multiprocessor's own cache, for reading them again soon.
__device__ __forceinline__ void cp_async16_cached(void* to, const void* from, bool there) {
  unsigned address = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;\n"
               ::"r"(address), "l"(from), "r"(there ? 16 : 0));
}

// Closes a group of copies.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;\n"); }

// Waits for this thread's copies, except those of the newest `pending` groups.
template <int pending>
__device__ __forceinline__ void cp_async_wait() { asm volatile("cp.async.wait_group %0;\n" ::"n"(pending)); }

// Reads four quarters of 8 rows x 16 bytes from shared memory. Lane 8 e + i names row i of quarter e
// (16 bytes, at a multiple of 16). Of each quarter, lane 4 g + t gets row g's word t: one float32, or
// the 16-bit numbers 2t and 2t + 1.
__device__ __forceinline__ void ldmatrix(unsigned* words, const void* row) {
  unsigned address = (unsigned)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
}

// The same of quarters turned over, as 8 x 8 numbers of 16 bits: those in rows 2t and 2t + 1 at g.
__device__ __forceinline__ void ldmatrix_transposed(unsigned* words, const void* row) {
  unsigned address = (unsigned)__cvta_generic_to_shared(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
}

// A float32 rounded to nearest with 10 bits of mantissa: tensor cores ignore the other 13 bits. From
// capability 9.0 on that is one instruction; before, half of what these bits can hold is added, but
// not to infinity or NaN, which would become something else.
__device__ __forceinline__ unsigned to_tf32(float x) {
#if __CUDA_ARCH__ >= 900
  unsigned rounded;
  asm("cvt.rn.tf32.f32 %0, %1;\n" : "=r"(rounded) : "f"(x));
  return rounded;
#else
  const unsigned bits = __float_as_int(x);
  return fabsf(x) < __int_as_float(0x7f800000) ? bits + 0x1000 : bits;
#endif
}

// Two numbers of 16 bits in one word, the first in its lower half.
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
  unsigned both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
__device__ __forceinline__ unsigned pack_fp16(float low, float high) {
  unsigned both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

// C += A · B by the 32 lanes of a warp, with A (16, k), B (k, 8) and C (16, 8); k is 8 for tf32 and 16
// for the others. With g = lane / 4 and t = lane % 4, a lane holds
//   of C:        c[0], c[1] = C[g][2t], C[g][2t + 1];  c[2], c[3] = the same of row g + 8
//   tf32, of A:  a[0], a[1], a[2], a[3] = A[g][t], A[g + 8][t], A[g][t + 4], A[g + 8][t + 4]
//         of B:  b[0], b[1] = B[t][g], B[t + 4][g]
//   16 bits, of A:  a[0] = A[g][2t], A[g][2t + 1];  a[1] of row g + 8;  a[2], a[3] = the same, 8 columns on
//            of B:  b[0] = B[2t][g], B[2t + 1][g];  b[1] = the same, 8 rows on
#define MMA(name, kind)                                                                            \
  __device__ __forceinline__ void name(float* c, const unsigned* a, const unsigned* b) {           \
    asm volatile("mma.sync.aligned." kind " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n" \
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));              \
  }
MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
MMA(mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
MMA(mma_fp16, "m16n8k16.row.col.f32.f16.f16.f32")
#undef MMA

#endif
