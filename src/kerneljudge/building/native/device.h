// What CUDA C++ may take for granted under nvcc and NVRTC lacks: the types, constants and names
// that the host's C and C++ headers bring with them. Included before every source.
#pragma once

// KERNELJUDGE_INT64 is `long`, as on the host; `long long` where NVIDIA's own headers, which
// define these names themselves under NVRTC, are included.
typedef signed char int8_t;
typedef signed short int16_t;
typedef signed int int32_t;
typedef signed KERNELJUDGE_INT64 int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned KERNELJUDGE_INT64 uint64_t;
typedef signed KERNELJUDGE_INT64 intptr_t;
typedef unsigned KERNELJUDGE_INT64 uintptr_t;
typedef unsigned int uint;
typedef unsigned short ushort;
typedef unsigned long ulong;

#define INT8_MIN (-128)
#define INT8_MAX 127
#define UINT8_MAX 255
#define INT16_MIN (-32767 - 1)
#define INT16_MAX 32767
#define UINT16_MAX 65535
#define INT32_MIN (-2147483647 - 1)
#define INT32_MAX 2147483647
#define UINT32_MAX 4294967295U
#define INT64_MIN (-9223372036854775807L - 1)
#define INT64_MAX 9223372036854775807L
#define UINT64_MAX 18446744073709551615UL

// <limits.h>
#define CHAR_BIT 8
#define SCHAR_MIN (-128)
#define SCHAR_MAX 127
#define UCHAR_MAX 255
#define CHAR_MIN SCHAR_MIN
#define CHAR_MAX SCHAR_MAX
#define SHRT_MIN (-32767 - 1)
#define SHRT_MAX 32767
#define USHRT_MAX 65535
#define INT_MIN (-2147483647 - 1)
#define INT_MAX 2147483647
#define UINT_MAX 4294967295U
#define LONG_MIN (-9223372036854775807L - 1)
#define LONG_MAX 9223372036854775807L
#define ULONG_MAX 18446744073709551615UL
#define LLONG_MIN (-9223372036854775807LL - 1)
#define LLONG_MAX 9223372036854775807LL
#define ULLONG_MAX 18446744073709551615ULL
#define SIZE_MAX 18446744073709551615UL

// <float.h>, for IEEE 754 binary32 and binary64
#define FLT_RADIX 2
#define FLT_MANT_DIG 24
#define FLT_DIG 6
#define FLT_MIN_EXP (-125)
#define FLT_MAX_EXP 128
#define FLT_MIN 1.17549435082228750796873653722224568e-38F
#define FLT_MAX 3.40282346638528859811704183484516925e+38F
#define FLT_EPSILON 1.19209289550781250000000000000000000e-7F
#define DBL_MANT_DIG 53
#define DBL_DIG 15
#define DBL_MIN_EXP (-1021)
#define DBL_MAX_EXP 1024
#define DBL_MIN 2.22507385850720138309023271733240406e-308
#define DBL_MAX 1.79769313486231570814527423731704357e+308
#define DBL_EPSILON 2.22044604925031308084726333618164062e-16

// <math.h>
#define INFINITY __builtin_bit_cast(float, 0x7f800000)
#define NAN __builtin_bit_cast(float, 0x7fc00000)
#define HUGE_VALF INFINITY
#define HUGE_VAL __builtin_bit_cast(double, 0x7ff0000000000000)
#define M_E 2.7182818284590452354
#define M_LOG2E 1.4426950408889634074
#define M_LOG10E 0.43429448190325182765
#define M_LN2 0.69314718055994530942
#define M_LN10 2.30258509299404568402
#define M_PI 3.14159265358979323846
#define M_PI_2 1.57079632679489661923
#define M_PI_4 0.78539816339744830962
#define M_1_PI 0.31830988618379067154
#define M_2_PI 0.63661977236758134308
#define M_2_SQRTPI 1.12837916709551257390
#define M_SQRT2 1.41421356237309504880
#define M_SQRT1_2 0.70710678118654752440

#define NULL 0

// c10/macros/Macros.h
#define C10_DEVICE __device__
#define C10_HOST __host__
#define C10_HOST_DEVICE __host__ __device__
#define C10_LAUNCH_BOUNDS_1(threads) __launch_bounds__(threads)
#define C10_LAUNCH_BOUNDS_2(threads, blocks) __launch_bounds__(threads, blocks)
#define C10_RESTRICT __restrict__
#define C10_ALWAYS_INLINE __forceinline__
#define C10_UNUSED [[maybe_unused]]
#define C10_LIKELY(condition) (__builtin_expect(static_cast<bool>(condition), 1))
#define C10_UNLIKELY(condition) (__builtin_expect(static_cast<bool>(condition), 0))

namespace kerneljudge {

// Argument promotion of the C++ library's mathematical functions ([cmath.syn]): an integer
// counts as double.
template <class T> struct Arithmetic { static constexpr int rank = 0; };
template <> struct Arithmetic<float> { static constexpr int rank = 1; };
template <> struct Arithmetic<double> { static constexpr int rank = 2; };
template <> struct Arithmetic<bool> { static constexpr int rank = 3; };
template <> struct Arithmetic<char> { static constexpr int rank = 3; };
template <> struct Arithmetic<signed char> { static constexpr int rank = 3; };
template <> struct Arithmetic<unsigned char> { static constexpr int rank = 3; };
template <> struct Arithmetic<short> { static constexpr int rank = 3; };
template <> struct Arithmetic<unsigned short> { static constexpr int rank = 3; };
template <> struct Arithmetic<int> { static constexpr int rank = 3; };
template <> struct Arithmetic<unsigned int> { static constexpr int rank = 3; };
template <> struct Arithmetic<long> { static constexpr int rank = 3; };
template <> struct Arithmetic<unsigned long> { static constexpr int rank = 3; };
template <> struct Arithmetic<long long> { static constexpr int rank = 3; };
template <> struct Arithmetic<unsigned long long> { static constexpr int rank = 3; };

template <bool, class> struct EnableIf {};
template <class T> struct EnableIf<true, T> { using type = T; };

template <class T, class R = double>
using IfInteger = typename EnableIf<Arithmetic<T>::rank == 3, R>::type;
// Two arguments that are not both float or both double.
template <class A, class B>
using IfMixed = typename EnableIf<
    (Arithmetic<A>::rank && Arithmetic<B>::rank &&
     (Arithmetic<A>::rank != Arithmetic<B>::rank || Arithmetic<A>::rank == 3)),
    double>::type;
template <class A, class B, class C>
using IfMixed3 = typename EnableIf<
    (Arithmetic<A>::rank && Arithmetic<B>::rank && Arithmetic<C>::rank &&
     (Arithmetic<A>::rank != Arithmetic<B>::rank || Arithmetic<B>::rank != Arithmetic<C>::rank ||
      Arithmetic<A>::rank == 3)),
    double>::type;

}  // namespace kerneljudge

#define KERNELJUDGE_FUNCTION template <class A> __host__ __device__ __forceinline__
// NVRTC finds calls with an integer ambiguous.
#define KERNELJUDGE_UNARY(name) \
    KERNELJUDGE_FUNCTION ::kerneljudge::IfInteger<A> name(A x) { return ::name(static_cast<double>(x)); }
KERNELJUDGE_UNARY(acos) KERNELJUDGE_UNARY(acosh) KERNELJUDGE_UNARY(asin) KERNELJUDGE_UNARY(asinh)
KERNELJUDGE_UNARY(atan) KERNELJUDGE_UNARY(atanh) KERNELJUDGE_UNARY(cbrt) KERNELJUDGE_UNARY(ceil)
KERNELJUDGE_UNARY(cos) KERNELJUDGE_UNARY(cosh) KERNELJUDGE_UNARY(erf) KERNELJUDGE_UNARY(erfc)
KERNELJUDGE_UNARY(exp) KERNELJUDGE_UNARY(exp2) KERNELJUDGE_UNARY(expm1) KERNELJUDGE_UNARY(fabs)
KERNELJUDGE_UNARY(floor) KERNELJUDGE_UNARY(lgamma) KERNELJUDGE_UNARY(log) KERNELJUDGE_UNARY(log10)
KERNELJUDGE_UNARY(log1p) KERNELJUDGE_UNARY(log2) KERNELJUDGE_UNARY(logb)
KERNELJUDGE_UNARY(nearbyint) KERNELJUDGE_UNARY(rint) KERNELJUDGE_UNARY(round)
KERNELJUDGE_UNARY(sin) KERNELJUDGE_UNARY(sinh) KERNELJUDGE_UNARY(sqrt) KERNELJUDGE_UNARY(tan)
KERNELJUDGE_UNARY(tanh) KERNELJUDGE_UNARY(tgamma) KERNELJUDGE_UNARY(trunc)
#undef KERNELJUDGE_UNARY

#ifdef KERNELJUDGE_AS_NVCC
// With one float and one integer NVRTC computes in float, where the headers that nvcc compiles
// with say double.
#define KERNELJUDGE_BINARY(name) \
    template <class A, class B> \
    __host__ __device__ __forceinline__ ::kerneljudge::IfMixed<A, B> name(A x, B y) { \
        return ::name(static_cast<double>(x), static_cast<double>(y)); \
    }
KERNELJUDGE_BINARY(atan2) KERNELJUDGE_BINARY(copysign) KERNELJUDGE_BINARY(fdim)
KERNELJUDGE_BINARY(fmax) KERNELJUDGE_BINARY(fmin) KERNELJUDGE_BINARY(fmod)
KERNELJUDGE_BINARY(hypot) KERNELJUDGE_BINARY(nextafter) KERNELJUDGE_BINARY(remainder)
#undef KERNELJUDGE_BINARY
template <class A, class B, class C>
__host__ __device__ __forceinline__ ::kerneljudge::IfMixed3<A, B, C> fma(A x, B y, C z) {
    return ::fma(static_cast<double>(x), static_cast<double>(y), static_cast<double>(z));
}
// NVRTC's own pow(float, int) cannot be replaced: the name is.
__host__ __device__ __forceinline__ float kerneljudge_pow(float x, float y) { return ::pow(x, y); }
__host__ __device__ __forceinline__ double kerneljudge_pow(double x, double y) {
    return ::pow(x, y);
}
template <class A, class B>
__host__ __device__ __forceinline__ ::kerneljudge::IfMixed<A, B> kerneljudge_pow(A x, B y) {
    return ::pow(static_cast<double>(x), static_cast<double>(y));
}
#define pow kerneljudge_pow
#endif
#undef KERNELJUDGE_FUNCTION

namespace std {

using ::int8_t; using ::int16_t; using ::int32_t; using ::int64_t;
using ::uint8_t; using ::uint16_t; using ::uint32_t; using ::uint64_t;
using ::intptr_t; using ::uintptr_t; using ::size_t; using ::ptrdiff_t;

using ::abs; using ::acos; using ::acosh; using ::asin; using ::asinh; using ::atan; using ::atan2;
using ::atanh; using ::cbrt; using ::ceil; using ::copysign; using ::cos; using ::cosh; using ::erf;
using ::erfc; using ::exp; using ::exp2; using ::expm1; using ::fabs; using ::fdim; using ::floor;
using ::fma; using ::fmax; using ::fmin; using ::fmod; using ::frexp; using ::hypot; using ::ilogb;
using ::isfinite; using ::isinf; using ::isnan; using ::ldexp; using ::lgamma; using ::llrint;
using ::llround; using ::log; using ::log10; using ::log1p; using ::log2; using ::logb;
using ::lrint; using ::lround; using ::modf; using ::nearbyint; using ::nextafter; using ::pow;
using ::remainder; using ::rint; using ::round; using ::scalbn; using ::signbit; using ::sin;
using ::sinh; using ::sqrt; using ::tan; using ::tanh; using ::tgamma; using ::trunc;
using ::memcpy; using ::memset; using ::printf;

template <class T>
__host__ __device__ constexpr const T& max(const T& a, const T& b) { return a < b ? b : a; }
template <class T>
__host__ __device__ constexpr const T& min(const T& a, const T& b) { return b < a ? b : a; }
template <class T>
__host__ __device__ constexpr const T& clamp(const T& x, const T& low, const T& high) {
    return x < low ? low : high < x ? high : x;
}
template <class T> __host__ __device__ constexpr void swap(T& a, T& b) {
    T first = static_cast<T&&>(a);
    a = static_cast<T&&>(b);
    b = static_cast<T&&>(first);
}

}  // namespace std
