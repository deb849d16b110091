// What the C++ half of an extension is compiled with: torch's types, CUDA's runtime, the launch of
// kernels through the driver, and the binding of functions through torch/library.h. Precompiled.
#ifndef KERNELJUDGE_EXTENSION_H
#define KERNELJUDGE_EXTENSION_H

#include <torch/library.h>
#include <torch/types.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#if KERNELJUDGE_CUDA
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif
#if KERNELJUDGE_TORCH_STREAMS
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif
#if KERNELJUDGE_TORCH_CUDA
#include <ATen/cuda/CUDAContext.h>
#endif

#if KERNELJUDGE_CUDA
// What CUDA's headers declare for host code where nvcc compiles it.
#define KERNELJUDGE_EXTREMA(A, B, R) \
    inline R min(A a, B b) { return static_cast<R>(a) < static_cast<R>(b) ? a : b; } \
    inline R max(A a, B b) { return static_cast<R>(a) > static_cast<R>(b) ? a : b; }
KERNELJUDGE_EXTREMA(int, int, int)
KERNELJUDGE_EXTREMA(unsigned int, unsigned int, unsigned int)
KERNELJUDGE_EXTREMA(unsigned int, int, unsigned int)
KERNELJUDGE_EXTREMA(int, unsigned int, unsigned int)
KERNELJUDGE_EXTREMA(long, long, long)
KERNELJUDGE_EXTREMA(unsigned long, unsigned long, unsigned long)
KERNELJUDGE_EXTREMA(unsigned long, long, unsigned long)
KERNELJUDGE_EXTREMA(long, unsigned long, unsigned long)
KERNELJUDGE_EXTREMA(long long, long long, long long)
KERNELJUDGE_EXTREMA(unsigned long long, unsigned long long, unsigned long long)
KERNELJUDGE_EXTREMA(unsigned long long, long long, unsigned long long)
KERNELJUDGE_EXTREMA(long long, unsigned long long, unsigned long long)
KERNELJUDGE_EXTREMA(float, float, float)
KERNELJUDGE_EXTREMA(double, double, double)
KERNELJUDGE_EXTREMA(float, double, double)
KERNELJUDGE_EXTREMA(double, float, double)
#undef KERNELJUDGE_EXTREMA
#endif

namespace kerneljudge {

// --- functions, bound through the dispatcher

// A function as the dispatcher calls it: takes its arguments off the stack and pushes its result.
using Call = void (*)(torch::jit::Stack&);

// How a C++ type is written in a schema, and how a value gets from there and back. There is no
// general definition: a signature with another type does not compile.
template <class T, class = void> struct Value;

template <> struct Value<at::Tensor> {
    static std::string schema() { return "Tensor"; }
    static at::Tensor get(c10::IValue&& value) {
        at::Tensor tensor = std::move(value).toTensor();
        TORCH_CHECK_TYPE(tensor.defined(), "expected a Tensor, got None");
        return tensor;
    }
    static c10::IValue put(at::Tensor value) { return c10::IValue(std::move(value)); }
};

template <> struct Value<bool> {
    static std::string schema() { return "bool"; }
    static bool get(c10::IValue&& value) { return value.toBool(); }
    static c10::IValue put(bool value) { return c10::IValue(value); }
};

template <class T>
struct Value<T, std::enable_if_t<std::is_integral_v<T> && !std::is_same_v<T, bool> &&
                                 !std::is_same_v<T, char>>> {
    static std::string schema() { return "int"; }
    static T get(c10::IValue&& value) {
        const int64_t wide = value.toInt();
        const T narrow = static_cast<T>(wide);
        TORCH_CHECK_TYPE(static_cast<int64_t>(narrow) == wide && (narrow < T{}) == (wide < 0),
                         "the integer ", wide, " is out of range for a C++ argument of ",
                         sizeof(T) * 8, " bits");
        return narrow;
    }
    static c10::IValue put(T value) {
        TORCH_CHECK_TYPE((value < T{}) == (static_cast<int64_t>(value) < 0),
                         "the returned integer does not fit in 64 bits with a sign");
        return c10::IValue(static_cast<int64_t>(value));
    }
};

template <class T> struct Value<T, std::enable_if_t<std::is_floating_point_v<T>>> {
    static std::string schema() { return "float"; }
    static T get(c10::IValue&& value) { return static_cast<T>(value.toDouble()); }
    static c10::IValue put(T value) { return c10::IValue(static_cast<double>(value)); }
};

template <> struct Value<std::string> {
    static std::string schema() { return "str"; }
    static std::string get(c10::IValue&& value) { return value.toStringRef(); }
    static c10::IValue put(std::string value) { return c10::IValue(std::move(value)); }
};

template <> struct Value<at::Scalar> {
    static std::string schema() { return "Scalar"; }
    static at::Scalar get(c10::IValue&& value) { return value.toScalar(); }
    static c10::IValue put(at::Scalar value) { return c10::IValue(std::move(value)); }
};

template <class T> struct Value<std::optional<T>> {
    static std::string schema() { return Value<T>::schema() + "?"; }
    static std::optional<T> get(c10::IValue&& value) {
        if (value.isNone()) {
            return std::nullopt;
        }
        return Value<T>::get(std::move(value));
    }
    static c10::IValue put(std::optional<T> value) {
        return value.has_value() ? Value<T>::put(std::move(*value)) : c10::IValue();
    }
};

template <class T> struct Value<std::vector<T>> {
    static std::string schema() { return Value<T>::schema() + "[]"; }
    static std::vector<T> get(c10::IValue&& value) {
        std::vector<T> values;
        if constexpr (std::is_same_v<T, at::Tensor>) {
            values = value.toTensorVector();
        } else if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
            for (const int64_t item : value.toIntVector()) {
                values.push_back(Value<T>::get(c10::IValue(item)));
            }
        } else if constexpr (std::is_floating_point_v<T>) {
            for (const double item : value.toDoubleVector()) {
                values.push_back(static_cast<T>(item));
            }
        } else {
            for (const c10::IValue& item : value.toListRef()) {
                values.push_back(Value<T>::get(c10::IValue(item)));
            }
        }
        return values;
    }
    static c10::IValue put(std::vector<T> values) {
        if constexpr (std::is_same_v<T, at::Tensor>) {
            return c10::IValue(std::move(values));
        } else if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
            return c10::IValue(std::vector<int64_t>(values.begin(), values.end()));
        } else {
            static_assert(std::is_floating_point_v<T>, "a list of this type cannot be returned");
            return c10::IValue(std::vector<double>(values.begin(), values.end()));
        }
    }
};

// Views of lists are taken as the lists that they view.
template <class T> struct Stored { using type = std::decay_t<T>; };
template <> struct Stored<at::IntArrayRef> { using type = std::vector<int64_t>; };
template <> struct Stored<at::TensorList> { using type = std::vector<at::Tensor>; };
template <class T> using StoredType = typename Stored<std::decay_t<T>>::type;

template <class T> struct Results {
    static std::string schema() { return Value<T>::schema(); }
    static void push(torch::jit::Stack& stack, T value) {
        stack.push_back(Value<T>::put(std::move(value)));
    }
};

template <class Tuple, class... T> struct SeveralResults {
    // A schema with one result returns it bare, where a tuple of one is meant.
    static_assert(sizeof...(T) > 1, "a tuple of one cannot be returned");
    static std::string schema() {
        std::string text;
        ((text += (text.empty() ? "(" : ", ") + Value<T>::schema()), ...);
        return text + ")";
    }
    static void push(torch::jit::Stack& stack, Tuple values) {
        std::apply(
            [&](auto&&... value) {
                (stack.push_back(Value<std::decay_t<decltype(value)>>::put(std::move(value))), ...);
            },
            std::move(values));
    }
};
template <class... T>
struct Results<std::tuple<T...>> : SeveralResults<std::tuple<T...>, T...> {};
template <class A, class B>
struct Results<std::pair<A, B>> : SeveralResults<std::pair<A, B>, A, B> {};

template <class F, F function> struct Adapter;

template <class R, class... A, R (*function)(A...)> struct Adapter<R (*)(A...), function> {
    static std::string schema() {
        std::string text = "(";
        int count = 0;
        ((text += (count ? ", " : "") + Value<StoredType<A>>::schema() + " a" +
                  std::to_string(count),
          ++count),
         ...);
        (void)count;
        text += ") -> ";
        if constexpr (std::is_void_v<R>) {
            return text + "()";
        } else {
            return text + Results<std::decay_t<R>>::schema();
        }
    }

    static void call(torch::jit::Stack& stack) { call(stack, std::index_sequence_for<A...>()); }

private:
    template <size_t... I>
    static void call(torch::jit::Stack& stack, std::index_sequence<I...>) {
        const size_t first = stack.size() - sizeof...(A);
        std::tuple<StoredType<A>...> arguments{
            Value<StoredType<A>>::get(std::move(stack[first + I]))...};
        (void)arguments;
        stack.resize(first);
        if constexpr (std::is_void_v<R>) {
            function(static_cast<A>(std::get<I>(arguments))...);
        } else {
            Results<std::decay_t<R>>::push(stack,
                                           function(static_cast<A>(std::get<I>(arguments))...));
        }
    }
};

struct Function {
    const char* name;
    std::string schema;
    Call call;
};

template <class F, F function> Function bind(const char* name) {
    return {name, Adapter<F, function>::schema(), &Adapter<F, function>::call};
}

// The functions of this library, for kerneljudge_register to register under a namespace of
// torch.ops: what fails while a library is being loaded would end the process.
class Functions {
public:
    Functions(const char* name, std::vector<Function> functions);
};

#if KERNELJUDGE_CUDA

// --- kernels, launched through the driver

// A kernel of the cubin that belongs to this library.
class Kernel {
public:
    // `key` is how the cubin's table names it, `name` how the source does.
    Kernel(const char* key, const char* name) : key(key), name(name) {}

    const char* const key;
    const char* const name;
    std::atomic<void*> handle{nullptr};
};

// The configuration between <<< and >>>, for the kernel called in the same expression.
//
// A launch without a stream goes to torch's current stream. Outside of a stream context that is
// the default stream, where CUDA would launch it; inside of one, CUDA's own choice would be ordered
// with nothing and could not be captured in a graph.
class Configuration {
public:
    Configuration(dim3 grid, dim3 block, size_t shared = 0, cudaStream_t stream = nullptr);
    // Throws if nothing was launched: what was called is no kernel of this library.
    ~Configuration() noexcept(false);
    Configuration(const Configuration&) = delete;
    Configuration& operator=(const Configuration&) = delete;

    const dim3 grid;
    const dim3 block;
    const size_t shared;
    const cudaStream_t stream;
    bool taken = false;

private:
    Configuration* const outer_;
    const int exceptions_;
};

void launch(Kernel& kernel, void** parameters);

// What stands in for the body of every kernel in the C++ half.
template <class... P> inline void enter(Kernel& kernel, P&... parameters) {
    void* addresses[] = {
        const_cast<void*>(static_cast<const volatile void*>(std::addressof(parameters)))...,
        nullptr};
    launch(kernel, addresses);
}

// Makes a call of a kernel's stand-in answer which kernel it is.
class Question {
public:
    Question();
    ~Question();
    Question(const Question&) = delete;
    Question& operator=(const Question&) = delete;
    Kernel& answer() const;

    Kernel* kernel = nullptr;
};

template <class... P> inline Kernel& kernel_of(void (*stand_in)(P...)) {
    Question question;
    stand_in(P{}...);
    return question.answer();
}

cudaError_t set_attribute(Kernel& kernel, cudaFuncAttribute attribute, int value);

template <class... P>
inline cudaError_t cudaFuncSetAttribute(void (*stand_in)(P...), cudaFuncAttribute attribute,
                                        int value) {
    return set_attribute(kernel_of(stand_in), attribute, value);
}

#endif  // KERNELJUDGE_CUDA

}  // namespace kerneljudge

#endif  // KERNELJUDGE_EXTENSION_H
