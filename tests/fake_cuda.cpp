// What torch asks of CUDA's library, answered without a GPU: for autograd, streams and generators.
// The answers are in force between two calls of toggle(), see fake_cuda.py.

#include <cstring>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

constexpr auto CUDA = c10::DeviceType::CUDA;

struct FakeGenerator : at::CPUGeneratorImpl {
  FakeGenerator() { device_ = c10::Device(CUDA, 0); }
};

struct FakeHooks : at::CUDAHooksInterface {
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return false; }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::make_generator<FakeGenerator>();
  }
};

// there is one device, with one stream: nothing is to be ordered by events
struct FakeGuard final : c10::impl::NoOpDeviceGuardImpl<CUDA> {
  c10::Device getDevice() const override { return c10::Device(CUDA, 0); }
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
  c10::Stream getStream(c10::Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, c10::Device(CUDA, 0));
  }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return getStream(getDevice()); }
};

static FakeHooks hooks;
static FakeGuard guard;

extern "C" void toggle() {
  // a registry would be read only once: objects without members exchange their virtual tables
  char table[sizeof(void*)];
  void* theirs = const_cast<at::CUDAHooksInterface*>(&at::detail::getCUDAHooks());
  void* ours = &hooks;
  std::memcpy(table, theirs, sizeof(table));
  std::memcpy(theirs, ours, sizeof(table));
  std::memcpy(ours, table, sizeof(table));

  auto& registered = c10::impl::device_guard_impl_registry[static_cast<size_t>(CUDA)];
  registered.store(registered.load() ? nullptr : &guard);
}
