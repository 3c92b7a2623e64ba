// What tch lacks. Every function catches what libtorch throws and gives it back as a malloc'ed message (null: all is
// well), so that no exception crosses into Rust. No CUDA header is needed: libtorch 2.11's at::accelerator is generic.

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_adamw_ops.h>
#include <ATen/ops/from_blob.h>
#include <ATen/record_function.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace {

char* message(const std::string& text) {
  return strdup(text.c_str());
}

template <typename Body>
char* guarded(Body body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return message(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return message(error.what());
  } catch (...) {
    return message("an exception of unknown type");
  }
}

// What was seen since the observation on this thread began. An allocation has no operation.
struct Sight {
  std::string operation;
  const void* address;
  uint64_t bytes;
};

thread_local bool observing = false;
thread_local std::vector<Sight> sights;
thread_local at::CallbackHandle observer = at::INVALID_CALLBACK_HANDLE;

void see_operand(const at::RecordFunction& function, const at::Tensor& tensor) {
  if (tensor.defined() && tensor.scalar_type() == at::kLong && tensor.device().is_cpu()) {
    sights.push_back({function.name(), tensor.const_data_ptr(), tensor.nbytes()});
  }
}

std::unique_ptr<at::ObserverContext> see_operation(const at::RecordFunction& function) {
  for (const auto& input : function.inputs()) {
    if (input.isTensor()) {
      see_operand(function, input.toTensor());
    } else if (input.isTensorList()) {
      for (const at::Tensor& tensor : input.toTensorVector()) see_operand(function, tensor);
    }
  }
  return nullptr;
}

// Notes what an observing thread takes, then hands on.
class ObservedAllocator final : public at::Allocator {
 public:
  explicit ObservedAllocator(at::Allocator* inner) : inner_(inner) {}

  at::DataPtr allocate(size_t bytes) override {
    if (observing && bytes > 0) sights.push_back({std::string(), nullptr, bytes});
    return inner_->allocate(bytes);
  }

  at::DeleterFnPtr raw_deleter() const override {
    return inner_->raw_deleter();
  }

  void copy_data(void* destination, const void* source, size_t bytes) const override {
    inner_->copy_data(destination, source, bytes);
  }

 private:
  at::Allocator* inner_;
};

}  // namespace

extern "C" {

char* lyceum_shim_fused_adamw(at::Tensor* parameter, at::Tensor* gradient, at::Tensor* mean, at::Tensor* variance,
                              at::Tensor* step, double rate, double beta1, double beta2, double decay, double epsilon,
                              const at::Tensor* gradient_divisor) {
  return guarded([&] {
    std::optional<at::Tensor> divisor;
    if (gradient_divisor != nullptr) divisor = *gradient_divisor;
    at::_fused_adamw_({*parameter}, {*gradient}, {*mean}, {*variance}, {}, {*step}, rate, beta1, beta2, decay, epsilon,
                      /*amsgrad=*/false, /*maximize=*/false, divisor);
  });
}

// `release(owner)` is called once: when the last tensor over the memory is gone, or when this fails.
char* lyceum_shim_tensor_over(void* data, const int64_t* shape, size_t dimensions, int8_t kind, void* owner,
                              void (*release)(void*), at::Tensor** out) {
  return guarded([&] {
    std::shared_ptr<void> held(owner, release);
    auto options = at::TensorOptions().dtype(static_cast<at::ScalarType>(kind)).device(at::kCPU);
    std::function<void(void*)> drop = [held](void*) {};
    *out = new at::Tensor(at::from_blob(data, at::IntArrayRef(shape, dimensions), std::move(drop), options));
  });
}

// oneDNN's own layout of a [rows, columns] weight, made for products with about `batch` rows.
char* lyceum_shim_pack_linear(const at::Tensor* weight, int64_t batch, at::Tensor** out) {
  return guarded([&] {
    auto pack = c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_reorder_linear_weight", "");
    torch::jit::Stack stack;
    torch::jit::push(stack, *weight, batch);
    pack.callBoxed(stack);
    *out = new at::Tensor(torch::jit::pop(stack).toTensor());
  });
}

char* lyceum_shim_packed_linear(const at::Tensor* input, const at::Tensor* packed, at::Tensor** out) {
  return guarded([&] {
    static const auto apply = c10::Dispatcher::singleton().findSchemaOrThrow("mkldnn::_linear_pointwise", "");
    torch::jit::Stack stack;
    c10::List<std::optional<at::Scalar>> no_scalars;
    torch::jit::push(stack, *input, *packed, c10::IValue(), std::string("none"), no_scalars, std::string());
    apply.callBoxed(stack);
    *out = new at::Tensor(torch::jit::pop(stack).toTensor());
  });
}

char* lyceum_shim_observe_begin() {
  return guarded([] {
    static std::once_flag once;
    std::call_once(once, [] {
      // Never freed: tensors may outlive any owner of it.
      c10::SetCPUAllocator(new ObservedAllocator(c10::GetCPUAllocator()), /*priority=*/1);
    });
    TORCH_CHECK(!observing, "this thread is observed already");
    sights.clear();
    auto callback = at::RecordFunctionCallback(see_operation).needsInputs(true);
    observer = at::addThreadLocalCallback(callback.scopes({at::RecordScope::FUNCTION}));
    observing = true;
  });
}

// Ends what was begun and tells what was seen, in order; without `tell`, nothing is told.
void lyceum_shim_observe_end(void (*tell)(void*, const char*, const void*, uint64_t), void* context) {
  observing = false;
  at::removeCallback(observer);
  for (const Sight& sight : sights) {
    if (tell == nullptr) break;
    tell(context, sight.operation.empty() ? nullptr : sight.operation.c_str(), sight.address, sight.bytes);
  }
  sights.clear();
}

char* lyceum_shim_empty_cache() {
  return guarded([] {
    if (at::accelerator::deviceCount() > 0) at::accelerator::emptyCache();
  });
}

// Bytes now allocated, at most allocated, and reserved on one accelerator.
char* lyceum_shim_device_memory(int8_t device, int64_t* allocated, int64_t* peak, int64_t* reserved) {
  return guarded([&] {
    auto stats = at::accelerator::getDeviceStats(device);
    constexpr size_t all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    *allocated = stats.allocated_bytes[all].current;
    *peak = stats.allocated_bytes[all].peak;
    *reserved = stats.reserved_bytes[all].current;
  });
}

// How many NVIDIA devices this process may use, asked of the driver alone; 0 where there is none.
int lyceum_shim_driver_devices() {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) return 0;
  auto initialise = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  auto count = reinterpret_cast<int (*)(int*)>(dlsym(driver, "cuDeviceGetCount"));
  int devices = 0;
  if (initialise == nullptr || count == nullptr || initialise(0) != 0 || count(&devices) != 0) devices = 0;
  return devices;
}

// Loads a library for good and for all; its initializers register what it has with libtorch.
char* lyceum_shim_load_library(const char* path) {
  if (dlopen(path, RTLD_NOW | RTLD_GLOBAL) != nullptr) return nullptr;
  const char* reason = dlerror();
  return message(reason == nullptr ? "dlopen failed" : reason);
}

// The file that libtorch_cpu was loaded from; null where the loader cannot say.
char* lyceum_shim_libtorch_path() {
  Dl_info found;
  auto symbol = reinterpret_cast<const void*>(&at::_ops::_fused_adamw_::call);
  if (dladdr(symbol, &found) == 0 || found.dli_fname == nullptr) return nullptr;
  return message(found.dli_fname);
}

}  // extern "C"
