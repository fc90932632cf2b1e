#include "core/vm/kv/page_table.h"

#include <algorithm>

#include "core/ffi/object.h"

namespace sluice::vm {
namespace {

using ffi::raise_value;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Slots that the tokens of a block reach to
int64_t end_slot(const Block& block, int64_t length) { return length - block.sink + block.offset; }

}  // namespace

PageTable::PageTable(int32_t pages, int32_t page_size, bool slides)
    : page_count_(pages), page_size_(page_size), slides_(slides) {
  clear();
}

void PageTable::clear() {
  sequences_.clear();
  blocks_.clear();
  free_blocks_.clear();
  free_pages_.resize(static_cast<size_t>(page_count_));
  // Page 0 is taken first
  for (int32_t i = 0; i < page_count_; ++i)
    free_pages_[static_cast<size_t>(i)] = page_count_ - 1 - i;
}

// ---- Blocks and pages ----

int32_t PageTable::new_block() {
  if (free_blocks_.empty()) {
    blocks_.emplace_back();
    return static_cast<int32_t>(blocks_.size() - 1);
  }
  const int32_t index = free_blocks_.back();
  free_blocks_.pop_back();
  at(index) = Block();
  return index;
}

void PageTable::free_pages_from(Block& block, size_t kept) {
  while (block.pages.size() > kept) {
    free_pages_.push_back(block.pages.back());
    block.pages.pop_back();
  }
}

void PageTable::free_block(int32_t index) {
  free_pages_from(at(index), 0);
  free_blocks_.push_back(index);
}

int32_t PageTable::take_page() {
  const int32_t page = free_pages_.back();
  free_pages_.pop_back();
  return page;
}

std::vector<int32_t> PageTable::trace(const Sequence& sequence) const {
  std::vector<int32_t> out;
  for (int32_t i = sequence.last_block; i != -1; i = block(i).parent) out.push_back(i);
  std::ranges::reverse(out);
  return out;
}

int32_t PageTable::slot_place(const Block& block, int32_t slot) const {
  return block.pages[static_cast<size_t>(slot / page_size_)] * page_size_ + slot % page_size_;
}

int32_t PageTable::place(const Block& block, int32_t index) const {
  return slot_place(block, index < block.sink ? index : index - block.sink + block.offset);
}

int64_t PageTable::total_length() const {
  int64_t total = 0;
  for (const auto& [id, sequence] : sequences_) total += sequence.length;
  return total;
}

// ---- Sequences ----

Sequence* PageTable::find(int64_t id, std::string_view function) {
  const auto found = sequences_.find(id);
  if (found != sequences_.end()) return &found->second;
  raise_value(concat(function, ": there is no sequence ", id));
  return nullptr;
}

int PageTable::add(int64_t id, std::string_view function) {
  if (sequences_.contains(id))
    return raise_value(concat(function, ": there is a sequence ", id, " already"));
  const int32_t index = new_block();
  at(index).references = 1;
  sequences_[id].last_block = index;
  return 0;
}

// Gives back the blocks that only this sequence has.
void PageTable::drop(const Sequence& sequence) {
  int32_t index = sequence.last_block;
  while (index != -1 && at(index).references == 1) {
    const int32_t parent = at(index).parent;
    free_block(index);
    index = parent;
  }
  if (index != -1) --at(index).references;
}

int PageTable::remove(int64_t id, std::string_view function) {
  const Sequence* sequence = find(id, function);
  if (sequence == nullptr) return -1;
  drop(*sequence);
  sequences_.erase(id);
  return 0;
}

int PageTable::fork(int64_t parent, int64_t child, int64_t position, std::string_view function,
                    PageCopy* copy) {
  Sequence* source = find(parent, function);
  if (source == nullptr) return -1;
  if (sequences_.contains(child))
    return raise_value(concat(function, ": there is a sequence ", child, " already"));
  if (position == -1) position = source->length;
  if (position < 0 || position > source->length)
    return raise_value(concat(function, ": position ", position, " of sequence ", parent,
                              ", which has ", source->length, " tokens"));
  if (!source->tree_parents.empty())
    return raise_value(concat(function, ": sequence ", parent, " ends in a tree of ",
                              source->tree_parents.size(), " tokens that is not committed"));
  const int32_t kept = std::max(block(source->last_block).start, source->sink);
  if (slides_ && source->window != 0 && position > kept)
    return raise_value(concat(function, ": position ", position, " of sequence ", parent,
                              ", which has a sliding window and can be forked within its first ",
                              kept, " tokens"));
  if (position % page_size_ != 0 && free_pages_.empty())
    return raise_value(concat(function, ": a copy of a page is needed, and none of the ",
                              page_count_, " pages is free"));
  fork_at(*source, child, static_cast<int32_t>(position), copy);
  return 0;
}

// Makes the sequence `child`; what it needs is there.
void PageTable::fork_at(Sequence& parent, int64_t child, int32_t position, PageCopy* copy) {
  if (position == parent.length && position % page_size_ == 0 &&
      block(parent.last_block).length > 0) {
    // The child shares all pages, so that the parent goes on in a block of its own
    const int32_t index = new_block();
    at(index).start = parent.length;
    at(index).parent = parent.last_block;
    at(index).references = 1;
    parent.last_block = index;
  }
  const std::vector<int32_t> blocks = trace(parent);
  size_t i = 0;
  int32_t rest = position;
  while (i + 1 < blocks.size() && block(blocks[i]).length <= rest)
    rest -= block(blocks[i++]).length;
  const int32_t split = blocks[i];
  const int32_t in_page = rest % page_size_;
  const int32_t shared = rest - in_page;

  const int32_t child_index = new_block();
  at(child_index).start = position - in_page;
  at(child_index).length = in_page;
  at(child_index).references = 1;
  if (shared == 0) {
    at(child_index).parent = at(split).parent;
    if (at(split).parent != -1) ++at(at(split).parent).references;
  } else {
    // The pages that both have become a block before the one that is split
    const int32_t common = new_block();
    Block& before = at(common);
    Block& behind = at(split);
    before.parent = behind.parent;
    before.start = behind.start;
    before.length = shared;
    before.references = 2;
    const auto end = behind.pages.begin() + shared / page_size_;
    before.pages.assign(behind.pages.begin(), end);
    behind.pages.erase(behind.pages.begin(), end);
    behind.parent = common;
    behind.start += shared;
    behind.length -= shared;
    if (behind.offset != 0) {
      behind.sink -= shared;
      behind.offset -= shared;
    }
    at(child_index).parent = common;
  }
  if (in_page != 0) {
    const int32_t page = take_page();
    at(child_index).pages.push_back(page);
    *copy = {.from = at(split).pages[0], .to = page, .tokens = in_page};
  }
  Sequence& made = sequences_[child];
  made.last_block = child_index;
  made.length = position;
}

// The block loses its last `tokens` tokens.
void PageTable::shorten(Block& block, int32_t tokens) {
  block.length -= tokens;
  // Within the sink all is as before the window slid
  if (block.length <= block.sink) block.sink = block.offset = 0;
  free_pages_from(block, block.length == 0 ? 0
                                           : static_cast<size_t>(ceil_div(
                                                 end_slot(block, block.length), page_size_)));
}

int PageTable::pop(int64_t id, int64_t tokens, std::string_view function, PageCopy* copy) {
  Sequence* sequence = find(id, function);
  if (sequence == nullptr) return -1;
  if (tokens < 0 || tokens > sequence->length)
    return raise_value(concat(function, ": ", tokens, " tokens of sequence ", id, ", which has ",
                              sequence->length));
  if (tokens == 0) return 0;
  const auto position = static_cast<int32_t>(sequence->length - tokens);
  // The last block that keeps tokens, or the first one; what is behind it goes
  int32_t index = sequence->last_block;
  size_t freed = 0;
  while (block(index).references == 1 && block(index).start > position) {
    freed += block(index).pages.size();
    index = block(index).parent;
  }
  const bool shared = block(index).references > 1;
  if (shared && position % page_size_ != 0 && free_pages_.size() + freed == 0)
    return raise_value(concat(function, ": a copy of a page is needed, and none of the ",
                              page_count_, " pages is free"));
  while (sequence->last_block != index) {
    const int32_t last = sequence->last_block;
    sequence->length = block(last).start;
    sequence->last_block = block(last).parent;
    free_block(last);
  }
  if (shared) {
    // As a fork that takes the place of the sequence
    const Sequence old = *sequence;
    sequences_.erase(id);
    Sequence source = old;
    fork_at(source, id, position, copy);
    drop(source);
    sequence = &sequences_[id];
    sequence->window = old.window;
    sequence->sink = old.sink;
    sequence->tree_parents = old.tree_parents;
    sequence->tree_depths = old.tree_depths;
  } else {
    shorten(at(index), sequence->length - position);
    sequence->length = position;
  }
  const size_t nodes = sequence->tree_parents.size();
  const size_t left = nodes - std::min(nodes, static_cast<size_t>(tokens));
  sequence->tree_parents.resize(left);
  sequence->tree_depths.resize(left);
  return 0;
}

int PageTable::set_window(int64_t id, int64_t window, int64_t sink, std::string_view function) {
  Sequence* sequence = find(id, function);
  if (sequence == nullptr) return -1;
  if (window <= 0 || window > INT32_MAX)
    return raise_value(
        concat(function, ": a window of ", window, " tokens; it must be 1 to ", INT32_MAX));
  if (sink < 0 || sink >= window)
    return raise_value(concat(function, ": a window of ", window, " tokens with a sink of ", sink,
                              "; the sink must be smaller than the window"));
  if (sequence->window != 0)
    return raise_value(concat(function, ": sequence ", id, " has a window of ", sequence->window,
                              " tokens already"));
  const int32_t start = block(sequence->last_block).start;
  if (slides_ && start >= window)
    return raise_value(concat(function, ": a window of ", window, " tokens, and sequence ", id,
                              " has ", start, " that it shares with others, which must stay"));
  sequence->window = static_cast<int32_t>(window);
  sequence->sink = static_cast<int32_t>(sink);
  return 0;
}

// ---- Appending ----

// What becomes of the last block of a sequence
struct PageTable::Growth {
  int32_t sequence_length, length, sink, offset;
  // Of the pages that it has, `dropped` from `first_dropped` on go; then `added` come
  int64_t first_dropped, dropped, added;
};

PageTable::Growth PageTable::growth(const Append& append) const {
  const Sequence& sequence = *append.sequence;
  const Block& last = block(sequence.last_block);
  const auto have = static_cast<int64_t>(last.pages.size());
  const int64_t grown = int64_t{last.length} + append.tokens;
  const int64_t total = int64_t{sequence.length} + append.tokens;
  if (!slides_ || sequence.window == 0 || total <= sequence.window)
    return {.sequence_length = static_cast<int32_t>(total),
            .length = static_cast<int32_t>(grown),
            .sink = last.sink,
            .offset = last.offset,
            .first_dropped = 0,
            .dropped = 0,
            .added = ceil_div(end_slot(last, grown), page_size_) - have};
  const int64_t excess = total - sequence.window;
  const int64_t length = grown - excess;
  // With the first slide the sink is pinned
  const int64_t sink = last.offset != 0 ? last.sink : std::max(sequence.sink - last.start, 0);
  const int64_t offset = (last.offset != 0 ? last.offset : sink) + excess;
  const int64_t first = ceil_div(sink, page_size_);
  const int64_t passed = std::max<int64_t>(offset / page_size_ - first, 0);
  const int64_t end = ceil_div(offset + length - sink, page_size_);
  // Some of those that are passed may never have been there
  const int64_t dropped = std::clamp<int64_t>(have - first, 0, passed);
  return {.sequence_length = sequence.window,
          .length = static_cast<int32_t>(length),
          .sink = static_cast<int32_t>(sink),
          .offset = static_cast<int32_t>(offset - passed * page_size_),
          .first_dropped = first,
          .dropped = dropped,
          .added = end - passed - (have - dropped)};
}

int PageTable::append(std::span<const Append> appends, std::string_view function) {
  std::vector<Growth> all;
  all.reserve(appends.size());
  int64_t wanted = 0, tokens = 0;
  for (const Append& each : appends) {
    all.push_back(growth(each));
    wanted += all.back().added - all.back().dropped;
    tokens += each.tokens;
  }
  if (wanted > static_cast<int64_t>(free_pages_.size()))
    return raise_value(concat(function, ": the KV cache is full: ", tokens, " more tokens need ",
                              wanted, " pages of ", page_size_, " tokens, and ", free_pages_.size(),
                              " of ", page_count_, " are free"));
  for (size_t i = 0; i < appends.size(); ++i) {
    if (all[i].dropped == 0) continue;
    Block& last = at(appends[i].sequence->last_block);
    const auto first = last.pages.begin() + static_cast<ptrdiff_t>(all[i].first_dropped);
    const auto end = first + static_cast<ptrdiff_t>(all[i].dropped);
    free_pages_.insert(free_pages_.end(), first, end);
    last.pages.erase(first, end);
  }
  for (size_t i = 0; i < appends.size(); ++i) {
    Block& last = at(appends[i].sequence->last_block);
    for (int64_t n = 0; n < all[i].added; ++n) last.pages.push_back(take_page());
    last.length = all[i].length;
    last.sink = all[i].sink;
    last.offset = all[i].offset;
    appends[i].sequence->length = all[i].sequence_length;
  }
  return 0;
}

// ---- Self-check ----

std::string PageTable::check() const {
  std::vector<bool> seen(static_cast<size_t>(page_count_));
  size_t pages = 0;
  const auto see = [&](int32_t page) {
    if (page < 0 || page >= page_count_ || seen[static_cast<size_t>(page)]) return false;
    ++pages;
    seen[static_cast<size_t>(page)] = true;
    return true;
  };
  for (const int32_t page : free_pages_)
    if (!see(page)) return concat("free page ", page, " is there twice");
  std::vector<bool> unused(blocks_.size());
  for (const int32_t index : free_blocks_) unused[static_cast<size_t>(index)] = true;
  std::vector<int32_t> references(blocks_.size());
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& each = blocks_[i];
    if (unused[i]) continue;
    for (const int32_t page : each.pages)
      if (!see(page)) return concat("page ", page, " of block ", i, " is elsewhere too");
    if (each.parent != -1) ++references[static_cast<size_t>(each.parent)];
    const int64_t wanted = each.length == 0 ? 0 : ceil_div(end_slot(each, each.length), page_size_);
    if (wanted != static_cast<int64_t>(each.pages.size()) || each.offset < each.sink ||
        each.length < each.sink)
      return concat("block ", i, " has ", each.length, " tokens, sink ", each.sink, ", offset ",
                    each.offset, ", ", each.pages.size(), " pages");
    if (each.parent == -1
            ? each.start != 0
            : each.start != block(each.parent).start + block(each.parent).length ||
                  block(each.parent).length == 0 || block(each.parent).length % page_size_ != 0 ||
                  block(each.parent).offset != 0)
      return concat("block ", i, " starts at ", each.start, " behind block ", each.parent);
  }
  for (const auto& [id, sequence] : sequences_) {
    const Block& last = block(sequence.last_block);
    ++references[static_cast<size_t>(sequence.last_block)];
    if (sequence.length != last.start + last.length)
      return concat("sequence ", id, " has ", sequence.length, " tokens, its blocks ",
                    last.start + last.length);
    if (last.references != 1) return concat("sequence ", id, " ends in a shared block");
    if (static_cast<int64_t>(sequence.tree_parents.size()) > last.length)
      return concat("the tree of sequence ", id, " is larger than its last block");
  }
  for (size_t i = 0; i < blocks_.size(); ++i)
    if (!unused[i] && references[i] != blocks_[i].references)
      return concat("block ", i, " counts ", blocks_[i].references, " references, there are ",
                    references[i]);
  if (pages != static_cast<size_t>(page_count_))
    return concat(pages, " of ", page_count_, " pages are free or used");
  return {};
}

}  // namespace sluice::vm
