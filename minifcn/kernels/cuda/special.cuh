// Numbers that CUDA C has names for in its headers only, which nobody needs to have: by their bits.

#define MINUS_INFINITY __int_as_float(0xff800000)
#define NOT_A_NUMBER __int_as_float(0x7fffffff)
