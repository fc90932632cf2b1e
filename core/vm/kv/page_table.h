// Which pages of a KV cache hold which tokens of which sequences. Numbers only: what the pages hold
// is with the cache.
//
// A sequence is a chain of blocks, of which other sequences may share all but the last. A block
// owns its pages; those of all blocks but the last are full. A sequence with a sliding window keeps
// its first tokens (the sink) and, behind them, as many of the newest as the window has room for.
//
// Functions that take `function` raise an error whose message begins with it, and return -1 or
// null, with nothing changed.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::vm {

struct Block {
  std::vector<int32_t> pages;
  int32_t length = 0;  // tokens
  int32_t start = 0;   // tokens of the sequence before this block
  // Only where the window has slid: the first `sink` tokens are in the slots [0, sink), the others
  // from the slot `offset` on. A slot is a place in the pages of the block, counted in tokens.
  int32_t sink = 0, offset = 0;
  int32_t parent = -1;     // the block before this one
  int32_t references = 0;  // blocks behind this one, and sequences that end here
};

struct Sequence {
  int32_t last_block = -1;
  int32_t length = 0;  // tokens
  int32_t window = 0;  // tokens, sink included; 0 for none
  int32_t sink = 0;    // tokens
  // Tokens at the end that form a tree, until one path is committed: parents by index in the tree,
  // -1 for a root, always before the node; and how many nodes are above each.
  std::vector<int32_t> tree_parents, tree_depths;
};

// The first `tokens` tokens of a page that another page gets too; none where tokens is 0
struct PageCopy {
  int32_t from = 0, to = 0, tokens = 0;
};

class PageTable {
 public:
  // `pages` * `page_size` must be an int32_t. Windows are kept only where `slides`.
  PageTable(int32_t pages, int32_t page_size, bool slides);

  void clear();
  [[nodiscard]] int add(int64_t id, std::string_view function);
  [[nodiscard]] int remove(int64_t id, std::string_view function);
  // `child` becomes a sequence of the first `position` tokens of `parent` (-1: all).
  [[nodiscard]] int fork(int64_t parent, int64_t child, int64_t position, std::string_view function,
                         PageCopy* copy);
  // The sequence loses its last `tokens` tokens.
  [[nodiscard]] int pop(int64_t id, int64_t tokens, std::string_view function, PageCopy* copy);
  [[nodiscard]] int set_window(int64_t id, int64_t window, int64_t sink, std::string_view function);

  struct Append {
    int64_t id;
    Sequence* sequence;
    int32_t tokens;  // at least 1
  };
  // Room for more tokens at the end of sequences, each of which is there once; windows slide.
  [[nodiscard]] int append(std::span<const Append> appends, std::string_view function);

  Sequence* find(int64_t id, std::string_view function);
  const Block& block(int32_t index) const { return blocks_[static_cast<size_t>(index)]; }
  // The blocks of a sequence, the first one first
  std::vector<int32_t> trace(const Sequence& sequence) const;
  // Where token `index` of a block is: page * page_size + slot in the page
  int32_t place(const Block& block, int32_t index) const;
  // The same for a slot
  int32_t slot_place(const Block& block, int32_t slot) const;

  int32_t page_size() const { return page_size_; }
  int32_t page_count() const { return page_count_; }
  size_t free_pages() const { return free_pages_.size(); }
  int64_t total_length() const;  // of all sequences
  bool empty() const { return sequences_.empty(); }
  bool slides() const { return slides_; }

  // What is wrong with the table, or "": each page is free or in one block, all counts agree. For
  // tests.
  std::string check() const;

 private:
  struct Growth;
  Growth growth(const Append& append) const;
  int32_t new_block();
  void free_block(int32_t index);
  void free_pages_from(Block& block, size_t kept);
  int32_t take_page();
  void fork_at(Sequence& parent, int64_t child, int32_t position, PageCopy* copy);
  void drop(const Sequence& sequence);
  void shorten(Block& block, int32_t tokens);
  Block& at(int32_t index) { return blocks_[static_cast<size_t>(index)]; }

  int32_t page_count_, page_size_;
  bool slides_;
  std::vector<int32_t> free_pages_;
  std::vector<Block> blocks_;
  std::vector<int32_t> free_blocks_;
  std::map<int64_t, Sequence> sequences_;
};

}  // namespace sluice::vm
