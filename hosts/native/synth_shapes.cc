#include "hosts/native/synth_shapes.h"

#include <string>

namespace sluice {
namespace {

class ShapeBuilder {
 public:
  void add(std::string name, DType dtype, std::vector<uint64_t> shape) {
    tensors_.push_back({std::move(name), dtype, std::move(shape)});
  }

  void float16(const std::string& name, std::vector<uint64_t> shape) {
    add(name, DType::f16, std::move(shape));
  }

  // A matrix as MLC's q4f16_1 stores it: groups of 32 columns, each with a float16 scale; eight
  // 4-bit numbers to a uint32. Source: mlc-ai/mlc-llm, quantization/group_quantization.py, layout
  // "NK". `rows` are the output features of a linear layer, or the entries of an embedding.
  void q4f16_1(const std::string& module, uint64_t rows, uint64_t columns) {
    const uint64_t groups = (columns + 31) / 32;
    add(module + ".q_weight", DType::u32, {rows, groups * 4});
    add(module + ".q_scale", DType::f16, {rows, groups});
  }

  std::vector<SynthTensor> take() { return std::move(tensors_); }

 private:
  std::vector<SynthTensor> tensors_;
};

// Gemma 4 E2B, the text model, as MLC's q4f16_1.
//
// Sizes: mlc-ai/mlc-llm, model/gemma4/gemma4_config.py, and ml-explore/mlx-lm,
// models/gemma4_text.py, which agree: 35 layers, hidden 1536, MLP 6144, 8 query heads, 1 key-value
// head, heads of 256 and, in layers with full attention (every fifth), of 512; vocabulary 262144,
// per-layer inputs of 256. The last 20 layers share keys and values with earlier ones, and their
// MLPs are twice as wide. Norms, gates, the projections of the per-layer inputs and
// `layer_scalar`: gemma4_model.py there. The head is the embedding (tied).
//
// Names and joining of matrices (`gate_up_proj`, but separate q, k, v): gemma4_loader.py there, at
// the revisions of which the names begin with `model.`.
//
// Assumptions:
// - The per-layer embedding is one table of 262144 x 8960, as in the checkpoint. MLC has split it
//   since, by layer, because of its 1,120 MiB: here it is the point.
// - Layers that share keys and values have k_proj, v_proj and k_norm nevertheless: the checkpoint
//   has them, and later revisions of the loader drop them (2 % of a layer).
// - `layer_scalar` is padded to two elements, as MLC did for WebGPU, where sizes are multiples
// of 4.
// - The order of tensors in the cache. Vision and audio towers are left out.
std::vector<SynthTensor> gemma_4_e2b() {
  constexpr uint64_t kLayers = 35, kHidden = 1536, kMlp = 6144, kHeads = 8, kKvHeads = 1;
  constexpr uint64_t kHeadDim = 256, kFullHeadDim = 512, kFullEvery = 5, kSharedFrom = 15;
  constexpr uint64_t kVocabulary = 262144, kPerLayer = 256;
  ShapeBuilder out;
  out.q4f16_1("model.embed_tokens", kVocabulary, kHidden);
  out.q4f16_1("model.embed_tokens_per_layer", kVocabulary, kLayers * kPerLayer);
  out.q4f16_1("model.per_layer_model_projection", kLayers * kPerLayer, kHidden);
  out.float16("model.per_layer_projection_norm.weight", {kPerLayer});
  for (uint64_t i = 0; i < kLayers; ++i) {
    const std::string layer = concat("model.layers.", i, ".");
    const uint64_t head = (i + 1) % kFullEvery == 0 ? kFullHeadDim : kHeadDim;
    const uint64_t mlp = i >= kSharedFrom ? 2 * kMlp : kMlp;
    out.float16(layer + "input_layernorm.weight", {kHidden});
    out.q4f16_1(layer + "self_attn.q_proj", kHeads * head, kHidden);
    out.q4f16_1(layer + "self_attn.k_proj", kKvHeads * head, kHidden);
    out.q4f16_1(layer + "self_attn.v_proj", kKvHeads * head, kHidden);
    out.q4f16_1(layer + "self_attn.o_proj", kHidden, kHeads * head);
    out.float16(layer + "self_attn.q_norm.weight", {head});
    out.float16(layer + "self_attn.k_norm.weight", {head});
    out.float16(layer + "post_attention_layernorm.weight", {kHidden});
    out.float16(layer + "pre_feedforward_layernorm.weight", {kHidden});
    out.q4f16_1(layer + "mlp.gate_up_proj", 2 * mlp, kHidden);
    out.q4f16_1(layer + "mlp.down_proj", kHidden, mlp);
    out.float16(layer + "post_feedforward_layernorm.weight", {kHidden});
    out.q4f16_1(layer + "per_layer_input_gate", kPerLayer, kHidden);
    out.q4f16_1(layer + "per_layer_projection", kHidden, kPerLayer);
    out.float16(layer + "post_per_layer_input_norm.weight", {kHidden});
    out.float16(layer + "layer_scalar", {2});
  }
  out.float16("model.norm.weight", {kHidden});
  return out.take();
}

// SmolLM2-135M in float16, with the names of its checkpoint (LlamaForCausalLM). Source: config.json
// of HuggingFaceTB/SmolLM2-135M: 30 layers, hidden 576, MLP 1536, 9 query heads, 3 key-value heads
// of 64, vocabulary 49152, the head tied to the embedding. Assumption: the order of tensors.
std::vector<SynthTensor> smollm2() {
  constexpr uint64_t kLayers = 30, kHidden = 576, kMlp = 1536, kKv = 3 * 64, kVocabulary = 49152;
  ShapeBuilder out;
  out.float16("model.embed_tokens.weight", {kVocabulary, kHidden});
  for (uint64_t i = 0; i < kLayers; ++i) {
    const std::string layer = concat("model.layers.", i, ".");
    out.float16(layer + "input_layernorm.weight", {kHidden});
    out.float16(layer + "self_attn.q_proj.weight", {kHidden, kHidden});
    out.float16(layer + "self_attn.k_proj.weight", {kKv, kHidden});
    out.float16(layer + "self_attn.v_proj.weight", {kKv, kHidden});
    out.float16(layer + "self_attn.o_proj.weight", {kHidden, kHidden});
    out.float16(layer + "post_attention_layernorm.weight", {kHidden});
    out.float16(layer + "mlp.gate_proj.weight", {kMlp, kHidden});
    out.float16(layer + "mlp.up_proj.weight", {kMlp, kHidden});
    out.float16(layer + "mlp.down_proj.weight", {kHidden, kMlp});
  }
  out.float16("model.norm.weight", {kHidden});
  return out.take();
}

constexpr NamedShape kShapes[] = {{"gemma-4-e2b", gemma_4_e2b}, {"smollm2", smollm2}};

}  // namespace

std::span<const NamedShape> named_shapes() { return kShapes; }

}  // namespace sluice
