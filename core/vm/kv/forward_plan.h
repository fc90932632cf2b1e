// What one forward pass over a batch needs to know, as the int32 arrays that TVM's attention
// kernels read (the arguments of tvm/relax/frontend/nn/llm/_prefill_kernels.py and its neighbours
// in apache-tvm 0.27).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "core/vm/kv/page_table.h"

namespace sluice::vm {

// The nodes of the trees of a batch: for tree b the rows [indptr[b], indptr[b + 1]) of `order`, two
// numbers each, so that node x is above or at node y where order[x][0] <= order[y][0] <
// order[x][1].
struct TreeMask {
  std::vector<int32_t> indptr, order;
};

// Queries and the pages that they attend to. Entry i has the queries [qo_indptr[i], qo_indptr[i +
// 1]) of the batch and the pages page_values[page_indptr[i]…page_indptr[i + 1]).
struct PagedPart {
  std::vector<int32_t> qo_indptr, page_indptr, page_values;
  std::vector<int32_t> last_page_length;  // slots up to the end of the last token
  std::vector<int32_t> offset, sink;      // as in Block
  std::vector<int32_t> rope_offset;       // position of the first token
  bool decode = false;                    // each entry has one query
  std::optional<TreeMask> mask;           // the last tokens are trees
};

struct ForwardPlan {
  std::vector<int32_t> append_indptr;       // [batch + 1]: the new tokens of each sequence
  std::vector<int32_t> query_positions;     // [tokens]
  std::vector<int32_t> ragged_rope_offset;  // [batch]: position of the first new token
  std::vector<int32_t> append_positions;    // [tokens]: place in the pages, -1 for none
  // Attention to the cache, in parts whose results are merged: what several sequences share is the
  // first one's
  std::vector<PagedPart> parts;
  // The same for layers that see a window of the newest tokens; one part
  PagedPart window;
  // Whether new tokens are in the pages before attention, and so in the parts; otherwise there is
  // attention among them first.
  bool append_first = false;
  std::optional<TreeMask> mask;  // of the attention among new tokens

  int32_t tokens() const { return append_indptr.back(); }
  int32_t batch() const { return static_cast<int32_t>(append_indptr.size()) - 1; }
};

struct ForwardLimits {
  int64_t batch, tokens;
  int32_t layer_window;  // tokens; 0 where no layer has a window of its own
  bool trees;            // whether tokens may form trees
};

// Nodes of one tree
inline constexpr size_t kMaxTree = 256;

// Makes room in `table` for the new tokens, and the plan. `lengths` are the numbers of new tokens
// of the sequences `ids`; `parents` says that they form trees. Raises an error and returns -1, with
// nothing changed, where an argument is wrong or pages are missing.
[[nodiscard]] int plan_forward(PageTable* table, const ForwardLimits& limits,
                               std::span<const int64_t> ids, std::span<const int64_t> lengths,
                               const std::optional<std::span<const int64_t>>& parents,
                               std::string_view function, ForwardPlan* out);

// What commits one path of each tree: what to copy within the pages, as the kernel reads it, before
// the rest is popped.
struct CommitPlan {
  std::vector<int32_t> indptr;    // [sequences + 1]
  std::vector<int32_t> from, to;  // places in the pages
  std::vector<int32_t> popped;    // [sequences]: tokens to take off the end then
};
// leaves[i] is the last node of the path that stays of the tree of sequence ids[i], -1 for none.
[[nodiscard]] int plan_commit(PageTable* table, std::span<const int64_t> ids,
                              std::span<const int64_t> leaves, std::string_view function,
                              CommitPlan* out);

}  // namespace sluice::vm
