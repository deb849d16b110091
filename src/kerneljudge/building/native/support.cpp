// The part of every extension that does not depend on it. Compiled once a machine, and linked into
// each extension, whose own state it holds.
#include "extension.h"

#include <dlfcn.h>

#include <exception>
#include <mutex>
#include <unordered_map>

namespace kerneljudge {

namespace {

class BoxedCall final : public c10::OperatorKernel {
public:
    explicit BoxedCall(Call call) : call_(call) {}
    void operator()(const c10::OperatorHandle&, c10::DispatchKeySet, torch::jit::Stack* stack) {
        call_(*stack);
    }

private:
    Call call_;
};

struct Registry {
    std::string name;
    std::vector<Function> functions;
    std::unique_ptr<torch::Library> library;
};

Registry& registry() {
    static Registry registry;
    return registry;
}

void register_functions() {
    Registry& own = registry();
    if (own.library || own.functions.empty()) {
        return;
    }
    own.library = std::make_unique<torch::Library>(torch::Library::FRAGMENT, own.name,
                                                   std::nullopt, __FILE__, __LINE__);
    for (const Function& function : own.functions) {
        const std::string schema = function.name + function.schema;
        // Without a dispatch key: the function runs as it is, whatever its arguments are, and
        // autograd sees what it calls, as with a Python extension.
        own.library->def(torch::schema(schema.c_str(), c10::AliasAnalysisKind::CONSERVATIVE),
                         torch::CppFunction::makeFromBoxedFunctor(
                             std::make_unique<BoxedCall>(function.call)));
    }
}

int answer(const std::exception& error, char* message, size_t capacity) {
    std::snprintf(message, capacity, "%s", error.what());
    return 1;
}

}  // namespace

Functions::Functions(const char* name, std::vector<Function> functions) {
    registry().name = name;
    registry().functions = std::move(functions);
}

#if KERNELJUDGE_CUDA

namespace {

// The driver's entry points, found when the first kernel needs them: the library itself must load
// where there is no driver.
struct Driver {
    decltype(&cuGetErrorName) get_error_name;
    decltype(&cuGetErrorString) get_error_string;
    decltype(&cuCtxGetCurrent) get_context;
    decltype(&cuCtxSetCurrent) set_context;
    decltype(&cuDevicePrimaryCtxRetain) retain_primary_context;
    decltype(&cuCtxGetDevice) get_device;
    decltype(&cuLibraryLoadData) load_library;
    decltype(&cuLibraryGetKernel) get_kernel;
    decltype(&cuKernelGetFunction) get_function;
    decltype(&cuKernelSetAttribute) set_attribute;
    decltype(&cuLaunchKernel) launch;

    static const Driver& get() {
        static const Driver driver;
        return driver;
    }

private:
    Driver() {
        void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
        TORCH_CHECK(library, "a kernel cannot be launched here: ", dlerror());
#define KERNELJUDGE_STRING_(text) #text
#define KERNELJUDGE_STRING(text) KERNELJUDGE_STRING_(text)
// cuda.h renames functions to their versions by macros: the string is of what it renames to.
#define KERNELJUDGE_FIND(member, function) \
    member = find<decltype(member)>(library, KERNELJUDGE_STRING(function))
        KERNELJUDGE_FIND(get_error_name, cuGetErrorName);
        KERNELJUDGE_FIND(get_error_string, cuGetErrorString);
        KERNELJUDGE_FIND(get_context, cuCtxGetCurrent);
        KERNELJUDGE_FIND(set_context, cuCtxSetCurrent);
        KERNELJUDGE_FIND(retain_primary_context, cuDevicePrimaryCtxRetain);
        KERNELJUDGE_FIND(get_device, cuCtxGetDevice);
        KERNELJUDGE_FIND(load_library, cuLibraryLoadData);
        KERNELJUDGE_FIND(get_kernel, cuLibraryGetKernel);
        KERNELJUDGE_FIND(get_function, cuKernelGetFunction);
        KERNELJUDGE_FIND(set_attribute, cuKernelSetAttribute);
        KERNELJUDGE_FIND(launch, cuLaunchKernel);
    }

    template <class F> static F find(void* library, const char* name) {
        void* symbol = dlsym(library, name);
        TORCH_CHECK(symbol, "the CUDA driver is too old: it has no ", name);
        return reinterpret_cast<F>(symbol);
    }
};

std::string text_of(CUresult error) {
    const char* name = nullptr;
    const char* text = nullptr;
    Driver::get().get_error_name(error, &name);
    Driver::get().get_error_string(error, &text);
    return c10::str(name ? name : "unknown CUDA error", " (", static_cast<int>(error), ")",
                    text ? ": " : "", text ? text : "");
}

int current_device() {
#if KERNELJUDGE_TORCH_STREAMS
    return c10::cuda::current_device();
#else
    TORCH_CHECK(false, "a kernel cannot be launched here: this torch is built without CUDA");
#endif
}

cudaStream_t current_stream() {
#if KERNELJUDGE_TORCH_STREAMS
    return c10::cuda::getCurrentCUDAStream().stream();
#else
    TORCH_CHECK(false, "a kernel cannot be launched here: this torch is built without CUDA");
#endif
}

// Threads that torch has not made a context current on, such as autograd's, get the primary one.
void use_context() {
    const Driver& driver = Driver::get();
    CUcontext context = nullptr;
    if (driver.get_context(&context) == CUDA_SUCCESS && context) {
        return;
    }
    CUresult error = driver.retain_primary_context(&context, current_device());
    if (error == CUDA_SUCCESS) {
        error = driver.set_context(context);
    }
    TORCH_CHECK(error == CUDA_SUCCESS, "no CUDA context: ", text_of(error));
}

// The cubin of this library. Filled by kerneljudge_bind, loaded when it is first needed.
struct Image {
    std::mutex mutex;
    std::vector<char> bytes;
    std::unordered_map<std::string, std::string> entries;
    CUlibrary library = nullptr;

    CUkernel kernel(const char* key, const char* name) {
        const std::lock_guard<std::mutex> lock(mutex);
        const Driver& driver = Driver::get();
        use_context();
        if (!library) {
            TORCH_CHECK(!bytes.empty(), "kernel '", name, "': no cubin was bound");
            const CUresult error = driver.load_library(&library, bytes.data(), nullptr, nullptr, 0,
                                                       nullptr, nullptr, 0);
            TORCH_CHECK(error == CUDA_SUCCESS, "the kernels cannot be loaded: ", text_of(error));
        }
        const auto entry = entries.find(key);
        TORCH_CHECK(entry != entries.end(), "kernel '", name, "' is not in the cubin (", key, ")");
        CUkernel kernel = nullptr;
        CUresult error = driver.get_kernel(&kernel, library, entry->second.c_str());
        if (error == CUDA_SUCCESS) {
            // Loads the code now: while a graph is captured it could not be.
            CUfunction function = nullptr;
            error = driver.get_function(&function, kernel);
        }
        TORCH_CHECK(error == CUDA_SUCCESS, "kernel '", name, "' cannot be loaded: ",
                    text_of(error));
        return kernel;
    }
};

Image& image() {
    static Image image;
    return image;
}

CUkernel handle_of(Kernel& kernel) {
    void* handle = kernel.handle.load(std::memory_order_acquire);
    if (!handle) {
        handle = image().kernel(kernel.key, kernel.name);
        kernel.handle.store(handle, std::memory_order_release);
    }
    return static_cast<CUkernel>(handle);
}

thread_local Configuration* configuration = nullptr;
thread_local Question* question = nullptr;

std::string text_of(const dim3& size) {
    return c10::str("(", size.x, ", ", size.y, ", ", size.z, ")");
}

}  // namespace

Configuration::Configuration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream)
    : grid(grid),
      block(block),
      shared(shared),
      stream(stream),
      outer_(configuration),
      exceptions_(std::uncaught_exceptions()) {
    configuration = this;
}

Configuration::~Configuration() noexcept(false) {
    configuration = outer_;
    TORCH_CHECK(taken || std::uncaught_exceptions() > exceptions_,
                "<<<grid, block>>> did not launch a kernel of this extension");
}

Question::Question() { question = this; }

Question::~Question() { question = nullptr; }

Kernel& Question::answer() const {
    TORCH_CHECK(kernel, "this function is no kernel");
    return *kernel;
}

void launch(Kernel& kernel, void** parameters) {
    if (question) {
        question->kernel = &kernel;
        return;
    }
    Configuration* const with = configuration;
    TORCH_CHECK(with && !with->taken, "kernel '", kernel.name,
                "' was called without <<<grid, block>>>");
    with->taken = true;
    const CUkernel handle = handle_of(kernel);
    use_context();
    // No stream, and the legacy default stream by its null handle, are the same to CUDA.
    const cudaStream_t stream = with->stream ? with->stream : current_stream();
    const CUresult error = Driver::get().launch(
        reinterpret_cast<CUfunction>(handle), with->grid.x, with->grid.y, with->grid.z,
        with->block.x, with->block.y, with->block.z, static_cast<unsigned>(with->shared),
        reinterpret_cast<CUstream>(stream), parameters, nullptr);
    TORCH_CHECK(error == CUDA_SUCCESS, "launch of kernel '", kernel.name, "' failed: ",
                text_of(error), "; grid ", text_of(with->grid), ", block ",
                text_of(with->block), ", dynamic shared memory ", with->shared, " bytes");
}

cudaError_t set_attribute(Kernel& kernel, cudaFuncAttribute attribute, int value) {
    const CUkernel handle = handle_of(kernel);
    CUdevice device = 0;
    CUresult error = Driver::get().get_device(&device);
    if (error == CUDA_SUCCESS) {
        // The runtime's attributes have the driver's numbers.
        error = Driver::get().set_attribute(static_cast<CUfunction_attribute>(attribute), value,
                                            handle, device);
    }
    // As cudaError_t: the two enumerations share the numbers of what can fail here.
    return static_cast<cudaError_t>(error);
}

#endif  // KERNELJUDGE_CUDA

}  // namespace kerneljudge

// Registers the library's functions with torch. Returns 0, or 1 with the reason in `message`.
extern "C" __attribute__((visibility("default"))) int kerneljudge_register(char* message,
                                                                           size_t capacity) {
    try {
        kerneljudge::register_functions();
        return 0;
    } catch (const std::exception& error) {
        return kerneljudge::answer(error, message, capacity);
    }
}

#if KERNELJUDGE_CUDA

// Gives the library its cubin: `keys` and `entries` are `count` pairs of Kernel::key and mangled
// name. With `load`, every kernel is loaded now. Returns 0, or 1 with the reason in `message`.
extern "C" __attribute__((visibility("default"))) int kerneljudge_bind(
    const char* bytes, size_t size, const char* const* keys, const char* const* entries,
    size_t count, int load, char* message, size_t capacity) {
    try {
        kerneljudge::Image& image = kerneljudge::image();
        {
            const std::lock_guard<std::mutex> lock(image.mutex);
            if (image.bytes.empty()) {
                image.bytes.assign(bytes, bytes + size);
                for (size_t i = 0; i < count; ++i) {
                    image.entries.emplace(keys[i], entries[i]);
                }
            }
        }
        for (size_t i = 0; load && i < count; ++i) {
            image.kernel(keys[i], keys[i]);
        }
        return 0;
    } catch (const std::exception& error) {
        return kerneljudge::answer(error, message, capacity);
    }
}

#endif
