// Local files: descriptors that close themselves, and reads and writes that say what went wrong.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "core/base/bytes.h"
#include "core/base/error.h"

namespace sluice {

// Owns a file descriptor.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int number) : number_(number) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { close(); }

  void close();
  int number() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }

 private:
  int number_ = -1;
};

// A file open for reading, and its size in bytes when it was opened.
struct InputFile {
  FileDescriptor descriptor;
  uint64_t nbytes = 0;
};

// "cannot <what> '<path>': <the system's words>". `number` is an errno; the code is not_found where
// nothing is at `path`, io otherwise.
Error system_error(std::string_view what, const std::string& path, int number);

// Opens a regular file; never waits, as a pipe would make it. Errors: not_found, io.
Result<InputFile> open_input(const std::string& path);

// Reads exactly `out.size()` bytes from `offset` on. Errors: io; truncated where the file has
// become too short. `path` is for the message.
Status read_at(const FileDescriptor& file, uint64_t offset, MutableBytes out,
               const std::string& path);

// Creates `path`, or empties it if it exists, for writing. Error: io.
Result<FileDescriptor> create_file(const std::string& path);

// Writes all of `bytes`. Error: io.
Status write_all(const FileDescriptor& file, Bytes bytes, const std::string& path);

// Waits until what was written has reached the disk. Error: io.
Status sync_file(const FileDescriptor& file, const std::string& path);

// The same for the names in a folder. Error: io.
Status sync_folder(const std::string& path);

Status rename_file(const std::string& from, const std::string& to);

// Writes a whole file, emptied first if it exists. Error: io.
Status write_file(const std::string& path, std::string_view text);

}  // namespace sluice
