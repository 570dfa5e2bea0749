// Devices in ordinary memory, set up by second_device.py: tensors on it say so, each operation runs on the CPU and gives the
// CPU's numbers, an operation that mixes devices fails as it does on a GPU, and what a GPU would be paid for is counted:
// operations started, waits of the host for a value, uploads, bytes allocated. There are two of them, as with two GPUs.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_cpu_dispatch.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/extension.h>
#include <torch/library.h>

#include <array>
#include <atomic>
#include <cstring>
#include <set>
#include <string>

namespace {
using at::Tensor;
constexpr auto KIND = c10::DeviceType::PrivateUse1;
constexpr int DEVICES = 2;

thread_local int current = 0;  // the device that new memory lies on
thread_local int inside = 0;   // > 0 while an operation is carried out: its own copies do not count
std::atomic<long> operations{0}, waits{0}, uploads{0};
std::atomic<size_t> held[DEVICES], peak[DEVICES], limit{16ull << 30};

c10::Device numbered(int index) { return {KIND, static_cast<c10::DeviceIndex>(index)}; }

struct At {
  int before = current;
  explicit At(std::optional<at::Device> d) { if (d && d->type() == KIND && d->index() >= 0) current = d->index(); }
  ~At() { current = before; }
};

struct Block { void* bytes; size_t size; int device; };
void release(void* context) {
  auto* block = static_cast<Block*>(context);
  held[block->device] -= block->size;
  c10::free_cpu(block->bytes);
  delete block;
}

struct Memory final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t size) override {
    if (held[current] + size > limit)
      throw c10::OutOfMemoryError({__func__, __FILE__, static_cast<uint32_t>(__LINE__)},
          c10::str("out of memory on device ", numbered(current), ". Tried to allocate ", size, " bytes"));
    auto* block = new Block{c10::alloc_cpu(size ? size : 1), size, current};
    held[current] += size;
    if (held[current] > peak[current]) peak[current] = held[current].load();
    return {block->bytes, block, &release, numbered(current)};
  }
  void copy_data(void* to, const void* from, size_t n) const override { default_copy_data(to, from, n); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr&, c10::Stream) override {}
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex i) override {
    c10::CachingDeviceAllocator::DeviceStats stats;
    for (auto* s : {&stats.allocated_bytes[0], &stats.reserved_bytes[0], &stats.active_bytes[0], &stats.requested_bytes[0]}) {
      s->current = held[i];
      s->peak = peak[i];
    }
    return stats;
  }
  void resetAccumulatedStats(c10::DeviceIndex) override {}
  void resetPeakStats(c10::DeviceIndex i) override { peak[i] = held[i].load(); }
  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex i) override { return {limit - std::min(held[i].load(), limit.load()), limit}; }
};
Memory memory;
REGISTER_ALLOCATOR(KIND, &memory);

struct Guard final : c10::impl::NoOpDeviceGuardImpl<KIND> {
  static int of(c10::Device d) { return d.index() < 0 ? current : d.index(); }
  static c10::Stream stream(c10::Device d) { return c10::Stream(c10::Stream::DEFAULT, numbered(of(d))); }
  c10::Device getDevice() const override { return numbered(current); }
  c10::Device exchangeDevice(c10::Device d) const override { auto old = getDevice(); current = of(d); return old; }
  void setDevice(c10::Device d) const override { current = of(d); }
  void uncheckedSetDevice(c10::Device d) const noexcept override { current = of(d); }
  c10::Stream getStream(c10::Device d) const noexcept override { return stream(d); }
  c10::Stream getNewStream(c10::Device d, int) const override { return stream(d); }
  c10::Stream exchangeStream(c10::Stream s) const noexcept override { return stream(s.device()); }
  c10::DeviceIndex deviceCount() const noexcept override { return DEVICES; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeDevice(const c10::DeviceIndex) const override {}
  void synchronizeEvent(void*) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

const at::Generator& default_generator(int index) {
  static std::array<at::Generator, DEVICES> made{at::detail::createCPUGenerator(101), at::detail::createCPUGenerator(102)};
  return made[index];
}
struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  c10::DeviceIndex deviceCount() const override { return DEVICES; }
  c10::DeviceIndex getCurrentDevice() const override { return static_cast<c10::DeviceIndex>(current); }
  void setCurrentDevice(c10::DeviceIndex i) const override { current = i; }
  bool isPinnedPtr(const void*) const override { return false; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex i) const override { return default_generator(i < 0 ? current : i); }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::detail::createCPUGenerator(); }
};

constexpr c10::DispatchKeySet KEYS(c10::DispatchKey::PrivateUse1);
Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
             std::optional<at::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  const At at(device);
  return at::detail::empty_generic(size, &memory, KEYS, c10::dtype_or_default(dtype), format);
}
Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>) {
  const At at(device);
  return at::detail::empty_strided_generic(size, stride, &memory, KEYS, c10::dtype_or_default(dtype));
}
Tensor on_cpu(const Tensor& t) {  // the same bytes
  if (!t.is_privateuseone()) return t;
  return at::from_blob(t.data_ptr(), t.sizes(), t.strides(), t.options().device(at::kCPU).requires_grad(false));
}
Tensor copy_from(const Tensor& self, const Tensor& to, bool) {
  if (!inside) {
    if (!self.is_privateuseone()) uploads++;
    else if (!to.is_privateuseone()) waits++;
    else operations++;
  }
  at::NoGradGuard guard;
  on_cpu(to).copy_(on_cpu(self));
  return to;
}
Tensor copy_from_and_resize(const Tensor& self, const Tensor& to) {
  if (to.sizes() != self.sizes()) to.resize_(self.sizes());
  return copy_from(self, to, false);
}
at::Scalar local_scalar(const Tensor& self) {
  if (!inside) waits++;
  return on_cpu(self).item();
}
Tensor as_strided(const Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  std::optional<int64_t> start;
  if (offset) start = offset->expect_int();
  return at::cpu::as_strided(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), start);
}
Tensor& set_storage(Tensor& self, at::Storage storage, c10::SymInt offset, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::cpu::set_(self, storage, offset.expect_int(), C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}
Tensor view(const Tensor& self, c10::SymIntArrayRef size) { return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size)); }
Tensor reshape_alias(const Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}
Tensor unfold(const Tensor& self, int64_t dim, int64_t size, int64_t step) { return at::native::unfold(self, dim, size, step); }
const Tensor& resize(const Tensor& self, c10::SymIntArrayRef symbolic, std::optional<at::MemoryFormat>) {
  auto size = C10_AS_INTARRAYREF_SLOW(symbolic);
  size_t bytes = (c10::multiply_integers(size) + self.storage_offset()) * self.element_size();
  auto* storage = self.storage().unsafeGetStorageImpl();
  if (bytes > storage->nbytes()) {
    const At at(self.device());
    auto fresh = memory.allocate(bytes);
    std::memcpy(fresh.get(), storage->data(), storage->nbytes());
    storage->set_data_ptr_noswap(std::move(fresh));
    storage->set_nbytes(bytes);
  }
  self.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  return self;
}
int64_t plain_attention(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool,
                        std::optional<double>, bool) { return 0; }

void run(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& name = op.schema().name();
  const auto n = op.schema().arguments().size();
  bool cpu = false, first = true, first_here = false;
  int here = -1, other = -1;
  auto look = [&](const Tensor& t) {
    if (!t.defined()) return;
    if (first) { first_here = t.is_privateuseone(); first = false; }
    if (!t.is_privateuseone()) { cpu |= t.dim() > 0; return; }  // a CPU number goes with any device
    if (here < 0) here = t.device().index();
    else if (t.device().index() != here) other = t.device().index();
  };
  for (size_t i = stack->size() - n; i < stack->size(); i++) {
    const auto& value = (*stack)[i];
    if (value.isTensor()) look(value.toTensor());
    else if (value.isList())
      for (at::IValue element : value.toList()) if (element.isTensor()) look(element.toTensor());
  }
  static const std::set<std::string> cpu_indices{"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"};
  cpu &= here >= 0 && !(cpu_indices.count(name) && first_here);
  TORCH_CHECK(!cpu && other < 0, "Expected all tensors to be on the same device, but found at least two devices, ",
              numbered(here), " and ", cpu ? at::Device(at::kCPU) : numbered(other), "! (", name, ")");
  static const std::set<std::string> told{"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim", "aten::equal"};
  if (!inside) {
    operations++;
    if (told.count(name)) waits++;
  }
  const At at(here < 0 ? std::optional<at::Device>() : numbered(here));
  for (size_t i = 0; i < n; i++)  // draws come from the device's own generator
    if (op.schema().arguments()[i].name() == "generator" && (*stack)[stack->size() - n + i].isNone())
      (*stack)[stack->size() - n + i] = at::IValue(default_generator(current));
  struct Inside { Inside() { inside++; } ~Inside() { inside--; } } guard;
  at::native::cpu_fallback(op, stack);
}
}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&run>()); }
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", local_scalar);
  m.impl("as_strided", as_strided);
  m.impl("set_.source_Storage_storage_offset", set_storage);
  m.impl("view", view);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("unfold", unfold);
  m.impl("resize_", resize);
  m.impl("_fused_sdp_choice", plain_attention);
}
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  m.def("generator", [](int i) { return hooks.getDefaultGenerator(i); });
  m.def("counts", [] { return std::make_tuple(operations.exchange(0), waits.exchange(0), uploads.exchange(0)); });
  m.def("limit", [](size_t bytes) { limit = bytes; });
}
