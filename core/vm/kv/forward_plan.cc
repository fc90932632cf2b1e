#include "core/vm/kv/forward_plan.h"

#include <algorithm>

#include "core/ffi/object.h"

namespace sluice::vm {
namespace {

using ffi::raise_value;

// Blocks of a sequence that are attended to apart from each other; the last part takes all further
// blocks.
constexpr size_t kMaxParts = 2;

// From how many times fewer pages on it pays to attend to what decoding sequences share once
constexpr size_t kCoalesceRatio = 32;

struct Row {
  Sequence* sequence;
  int32_t tokens;               // new ones
  int32_t length_before;        // of the sequence
  int32_t block_length_before;  // of its last block
  std::vector<int32_t> blocks;
};

// ---- Checks ----

int find_rows(PageTable* table, std::span<const int64_t> ids, std::span<const int64_t> lengths,
              const ForwardLimits& limits, std::string_view function, std::vector<Row>* out) {
  if (ids.size() != lengths.size())
    return raise_value(concat(function, ": ", ids.size(), " sequences and ", lengths.size(),
                              " numbers of tokens to append"));
  if (ids.empty()) return raise_value(concat(function, ": no sequence is given"));
  if (static_cast<int64_t>(ids.size()) > limits.batch)
    return raise_value(concat(function, ": ", ids.size(), " sequences, the KV cache was made for ",
                              limits.batch, " at a time"));
  int64_t total = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (lengths[i] <= 0 || lengths[i] > limits.tokens - total)
      return raise_value(concat(function, ": ", lengths[i], " tokens to append to sequence ",
                                ids[i], ", behind ", total,
                                " of others; all together must be 1 to ", limits.tokens));
    total += lengths[i];
    Sequence* sequence = table->find(ids[i], function);
    if (sequence == nullptr) return -1;
    for (const Row& other : *out)
      if (other.sequence == sequence)
        return raise_value(concat(function, ": sequence ", ids[i], " is given twice"));
    out->push_back({.sequence = sequence,
                    .tokens = static_cast<int32_t>(lengths[i]),
                    .length_before = sequence->length,
                    .block_length_before = table->block(sequence->last_block).length,
                    .blocks = table->trace(*sequence)});
  }
  return 0;
}

// ---- Trees ----

struct Tree {
  std::vector<int32_t> parents, depths;
};

// The trees of the rows with the new nodes
int grow_trees(std::span<const Row> rows, std::span<const int64_t> ids,
               std::span<const int64_t> parents, std::string_view function,
               std::vector<Tree>* out) {
  size_t next = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    Tree tree{.parents = rows[i].sequence->tree_parents, .depths = rows[i].sequence->tree_depths};
    const auto added = static_cast<size_t>(rows[i].tokens);
    if (tree.parents.size() + added > kMaxTree)
      return raise_value(concat(function, ": a tree of ", tree.parents.size() + added,
                                " tokens behind sequence ", ids[i], ", at most ", kMaxTree,
                                " are possible"));
    if (added > parents.size() - next)
      return raise_value(concat(function, ": ", parents.size(),
                                " parents of tokens are fewer than the tokens to append"));
    for (size_t n = 0; n < added; ++n) {
      const int64_t parent = parents[next++];
      const auto node = static_cast<int64_t>(tree.parents.size());
      if (parent < -1 || parent >= node)
        return raise_value(concat(function, ": the parent of token ", node,
                                  " of the tree of sequence ", ids[i], " is ", parent,
                                  ", and must be -1 or an earlier one"));
      tree.parents.push_back(static_cast<int32_t>(parent));
      tree.depths.push_back(parent == -1 ? 0 : tree.depths[static_cast<size_t>(parent)] + 1);
    }
    out->push_back(std::move(tree));
  }
  if (next != parents.size())
    return raise_value(concat(function, ": ", parents.size(), " parents of tokens, and ", next,
                              " tokens to append"));
  return 0;
}

bool is_chain(const Tree& tree) {
  for (size_t n = 0; n < tree.parents.size(); ++n)
    if (tree.parents[n] != static_cast<int32_t>(n) - 1) return false;
  return true;
}

// Numbers the nodes of a tree from the roots down, each node's branch without a gap.
void add_tree(const Tree& tree, TreeMask* mask) {
  const size_t size = tree.parents.size();
  std::vector<int32_t> branch(size, 1), first(size), free(size);
  for (size_t n = size; n-- > 0;)
    if (tree.parents[n] != -1) branch[static_cast<size_t>(tree.parents[n])] += branch[n];
  int32_t next = 0;
  for (size_t n = 0; n < size; ++n) {
    int32_t& place = tree.parents[n] == -1 ? next : free[static_cast<size_t>(tree.parents[n])];
    first[n] = place;
    place += branch[n];
    free[n] = first[n] + 1;
    mask->order.push_back(first[n]);
    mask->order.push_back(first[n] + branch[n]);
  }
  mask->indptr.push_back(mask->indptr.back() + static_cast<int32_t>(size));
}

// ---- Parts ----

// The blocks of part `part` of a row
std::span<const int32_t> blocks_of(const Row& row, size_t part) {
  if (part >= row.blocks.size()) return {};
  return std::span(row.blocks).subspan(part, part + 1 == kMaxParts ? std::dynamic_extent : 1);
}

struct Entry {
  size_t row;
  int32_t queries;
};

// Neighbours in the batch that attend to the same block become one entry, where that is wanted.
std::vector<Entry> entries_of(const PageTable& table, std::span<const Row> rows, size_t part,
                              bool decoding, bool keep_apart, bool* decode) {
  std::vector<Entry> apart, together;
  size_t pages_apart = 0, pages_together = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto blocks = blocks_of(rows[i], part);
    const size_t pages = blocks.empty() ? 0 : table.block(blocks[0]).pages.size();
    const auto before = i == 0 ? blocks : blocks_of(rows[i - 1], part);
    const bool same =
        i != 0 && (blocks.empty() ? before.empty() : !before.empty() && before[0] == blocks[0]);
    apart.push_back({.row = i, .queries = rows[i].tokens});
    pages_apart += pages;
    if (same) {
      together.back().queries += rows[i].tokens;
    } else {
      together.push_back(apart.back());
      pages_together += pages;
    }
  }
  *decode = decoding && (pages_together == 0 || pages_apart < kCoalesceRatio * pages_together);
  return *decode || keep_apart || part + 1 == kMaxParts ? apart : together;
}

void add_queries(PagedPart* part, int32_t queries) {
  part->qo_indptr.push_back(part->qo_indptr.back() + queries);
}

void begin_part(PagedPart* part) {
  part->qo_indptr.push_back(0);
  part->page_indptr.push_back(0);
}

void end_entry(PagedPart* part, int64_t end, int32_t page_size, int32_t offset, int32_t sink,
               int32_t rope_offset) {
  part->page_indptr.push_back(static_cast<int32_t>(part->page_values.size()));
  part->last_page_length.push_back(end == 0 ? 0 : static_cast<int32_t>((end - 1) % page_size + 1));
  part->offset.push_back(offset);
  part->sink.push_back(sink);
  part->rope_offset.push_back(rope_offset);
}

void add_blocks(const PageTable& table, std::span<const int32_t> blocks, PagedPart* part) {
  if (blocks.empty()) return end_entry(part, 0, table.page_size(), 0, 0, 0);
  int32_t before = 0;  // tokens of all blocks but the last
  for (const int32_t index : blocks) {
    const Block& block = table.block(index);
    part->page_values.insert(part->page_values.end(), block.pages.begin(), block.pages.end());
    if (index != blocks.back()) before += block.length;
  }
  const Block& last = table.block(blocks.back());
  // Where the window has slid, what is before the last block stays, as the sink does
  const int32_t pinned = last.offset == 0 ? 0 : before;
  end_entry(part, int64_t{before} + last.length - last.sink + last.offset, table.page_size(),
            last.offset + pinned, last.sink + pinned, table.block(blocks.front()).start);
}

// The newest `window` tokens of a row
void add_window(const PageTable& table, const Row& row, int32_t window, PagedPart* part) {
  const int32_t page_size = table.page_size();
  int32_t length = 0;
  std::vector<int32_t> pages;
  for (const int32_t index : row.blocks) {
    const Block& block = table.block(index);
    pages.insert(pages.end(), block.pages.begin(), block.pages.end());
    length += block.length;
  }
  const int32_t first = std::max(length - window, 0);
  part->page_values.insert(part->page_values.end(), pages.begin() + first / page_size, pages.end());
  end_entry(part, length, page_size, first % page_size, 0, first);
}

// ---- Places of new tokens ----

void add_positions(const PageTable& table, const Row& row, const Tree* tree, ForwardPlan* plan) {
  const Block& last = table.block(row.sequence->last_block);
  const auto tree_before =
      tree == nullptr ? 0 : static_cast<int32_t>(tree->parents.size()) - row.tokens;
  const int32_t base = row.length_before - tree_before;
  plan->ragged_rope_offset.push_back(base);
  for (int32_t n = 0; n < row.tokens; ++n) {
    const auto node = static_cast<size_t>(tree_before) + static_cast<size_t>(n);
    plan->query_positions.push_back(base + (tree == nullptr ? n : tree->depths[node]));
    // Of what is added, the sink takes the first tokens, the window the last
    const int32_t before = row.block_length_before + n;
    const int32_t now = last.length - row.tokens + n;
    if (before < last.sink)
      plan->append_positions.push_back(table.slot_place(last, before));
    else if (now < last.sink)
      plan->append_positions.push_back(-1);
    else
      plan->append_positions.push_back(table.place(last, now));
  }
}

}  // namespace

int plan_forward(PageTable* table, const ForwardLimits& limits, std::span<const int64_t> ids,
                 std::span<const int64_t> lengths,
                 const std::optional<std::span<const int64_t>>& parents, std::string_view function,
                 ForwardPlan* out) {
  std::vector<Row> rows;
  std::vector<Tree> trees;
  if (find_rows(table, ids, lengths, limits, function, &rows) != 0) return -1;
  bool decoding = true, grown = false;
  std::vector<PageTable::Append> appends;
  for (size_t i = 0; i < rows.size(); ++i) {
    decoding = decoding && rows[i].tokens == 1;
    const size_t nodes = rows[i].sequence->tree_parents.size();
    grown = grown || nodes != 0;
    if (nodes != 0 && !parents)
      return raise_value(concat(function, ": sequence ", ids[i], " ends in a tree of ", nodes,
                                " tokens that is not committed"));
    appends.push_back({.id = ids[i], .sequence = rows[i].sequence, .tokens = rows[i].tokens});
  }
  if (parents) {
    if (!limits.trees)
      return raise_value(concat(function,
                                ": a KV cache with windows, latent attention or RoPE in the "
                                "attention kernels has no tree attention"));
    if (grow_trees(rows, ids, *parents, function, &trees) != 0) return -1;
  }

  // The parts, as far as they do not depend on the new tokens
  size_t part_count = 1;
  for (const Row& row : rows)
    part_count = std::max(part_count, std::min(row.blocks.size(), kMaxParts));
  ForwardPlan plan;
  std::vector<std::vector<Entry>> entries;
  for (size_t p = 0; p < part_count; ++p) {
    PagedPart part;
    begin_part(&part);
    entries.push_back(entries_of(*table, rows, p, decoding, grown, &part.decode));
    plan.parts.push_back(std::move(part));
  }
  plan.append_first = grown || (!table->slides() && plan.parts.back().decode);
  plan.append_indptr.push_back(0);
  for (const Row& row : rows) plan.append_indptr.push_back(plan.append_indptr.back() + row.tokens);

  if (plan.append_first && table->append(appends, function) != 0) return -1;
  for (size_t p = 0; p < part_count; ++p) {
    for (const Entry& entry : entries[p]) {
      add_queries(&plan.parts[p], entry.queries);
      add_blocks(*table, blocks_of(rows[entry.row], p), &plan.parts[p]);
    }
    if (!grown) continue;
    // The trees are at the end of the last blocks
    TreeMask mask{.indptr = {0}, .order = {}};
    for (size_t i = 0; i < rows.size(); ++i) {
      const bool ends_here = std::min(rows[i].blocks.size(), kMaxParts) == p + 1;
      add_tree(ends_here ? trees[i] : Tree(), &mask);
    }
    if (!mask.order.empty()) plan.parts[p].mask = std::move(mask);
  }
  if (limits.layer_window != 0) {
    begin_part(&plan.window);
    plan.window.decode = plan.append_first;
    for (const Row& row : rows) {
      add_queries(&plan.window, row.tokens);
      add_window(*table, row, limits.layer_window, &plan.window);
    }
  }
  if (!plan.append_first) {
    if (!std::ranges::all_of(trees, is_chain)) {
      plan.mask = TreeMask{.indptr = {0}, .order = {}};
      for (const Tree& tree : trees) add_tree(tree, &*plan.mask);
    }
    if (table->append(appends, function) != 0) return -1;
  }

  for (size_t i = 0; i < rows.size(); ++i) {
    add_positions(*table, rows[i], parents ? &trees[i] : nullptr, &plan);
    if (!parents) continue;
    rows[i].sequence->tree_parents = std::move(trees[i].parents);
    rows[i].sequence->tree_depths = std::move(trees[i].depths);
  }
  *out = std::move(plan);
  return 0;
}

int plan_commit(PageTable* table, std::span<const int64_t> ids, std::span<const int64_t> leaves,
                std::string_view function, CommitPlan* out) {
  if (ids.size() != leaves.size())
    return raise_value(
        concat(function, ": ", ids.size(), " sequences and ", leaves.size(), " leaves"));
  CommitPlan plan{.indptr = {0}, .from = {}, .to = {}, .popped = {}};
  for (size_t i = 0; i < ids.size(); ++i) {
    const Sequence* sequence = table->find(ids[i], function);
    if (sequence == nullptr) return -1;
    if (std::ranges::find(ids.first(i), ids[i]) != ids.begin() + static_cast<ptrdiff_t>(i))
      return raise_value(concat(function, ": sequence ", ids[i], " is given twice"));
    const auto nodes = static_cast<int64_t>(sequence->tree_parents.size());
    if (leaves[i] < -1 || leaves[i] >= nodes)
      return raise_value(concat(function, ": leaf ", leaves[i], " of sequence ", ids[i],
                                ", whose tree has ", nodes, " tokens that are not committed"));
    int32_t depth = leaves[i] == -1 ? 0 : sequence->tree_depths[static_cast<size_t>(leaves[i])] + 1;
    plan.popped.push_back(static_cast<int32_t>(nodes) - depth);
    const Block& last = table->block(sequence->last_block);
    const auto first = last.length - static_cast<int32_t>(nodes);
    const size_t begin = plan.from.size();
    for (auto node = static_cast<int32_t>(leaves[i]); node != -1;
         node = sequence->tree_parents[static_cast<size_t>(node)]) {
      --depth;
      if (node == depth) break;  // from here up all is in its place
      plan.from.push_back(table->place(last, first + node));
      plan.to.push_back(table->place(last, first + depth));
    }
    // From the front, so that nothing is overwritten before it is copied
    std::reverse(plan.from.begin() + static_cast<ptrdiff_t>(begin), plan.from.end());
    std::reverse(plan.to.begin() + static_cast<ptrdiff_t>(begin), plan.to.end());
    plan.indptr.push_back(static_cast<int32_t>(plan.from.size()));
  }
  *out = std::move(plan);
  return 0;
}

}  // namespace sluice::vm
