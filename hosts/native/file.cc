#include "hosts/native/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>

namespace sluice {

void FileDescriptor::close() {
  if (number_ >= 0) ::close(number_);
  number_ = -1;
}

Error system_error(std::string_view what, const std::string& path, int number) {
  Error error{
      .code = number == ENOENT || number == ENOTDIR ? ErrorCode::not_found : ErrorCode::io,
      .message =
          concat("cannot ", what, " ", quote(path), ": ", std::generic_category().message(number)),
      .file = path,
  };
  if (number == ENOSPC || number == EDQUOT || number == EFBIG)
    error.hint = "free some space, or choose another place";
  return error;
}

Result<InputFile> open_input(const std::string& path) {
  InputFile file{.descriptor =
                     FileDescriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK))};
  if (!file.descriptor) return std::unexpected(system_error("open", path, errno));
  struct stat status{};
  if (::fstat(file.descriptor.number(), &status) != 0)
    return std::unexpected(system_error("look at", path, errno));
  if (!S_ISREG(status.st_mode))
    return std::unexpected(Error{.code = ErrorCode::io,
                                 .message = concat(quote(path), " is not a regular file"),
                                 .file = path});
  file.nbytes = static_cast<uint64_t>(status.st_size);
  return file;
}

Status read_at(const FileDescriptor& file, uint64_t offset, MutableBytes out,
               const std::string& path) {
  while (!out.empty()) {
    const ssize_t n = ::pread(file.number(), out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return std::unexpected(system_error("read", path, errno));
    if (n == 0)
      return std::unexpected(
          Error{.code = ErrorCode::truncated,
                .message = concat(quote(path), " ends at byte ", offset, " now, while ", out.size(),
                                  " more bytes were there when it was opened"),
                .file = path,
                .expected = offset + out.size(),
                .actual = offset});
    out = out.subspan(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return {};
}

Result<FileDescriptor> create_file(const std::string& path) {
  FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (file) return file;
  Error error = system_error("create", path, errno);
  error.code = ErrorCode::io;
  return std::unexpected(std::move(error));
}

Status write_all(const FileDescriptor& file, Bytes bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(file.number(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return std::unexpected(system_error("write", path, errno));
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return {};
}

Status sync_file(const FileDescriptor& file, const std::string& path) {
  // EINVAL: not a file that could be synced, such as a pipe
  if (::fsync(file.number()) != 0 && errno != EINVAL)
    return std::unexpected(system_error("write", path, errno));
  return {};
}

Status sync_folder(const std::string& path) {
  const FileDescriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return std::unexpected(system_error("open", path, errno));
  return sync_file(folder, path);
}

Status rename_file(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) == 0) return {};
  Error error = system_error("create", to, errno);
  error.code = ErrorCode::io;
  return std::unexpected(std::move(error));
}

Status write_file(const std::string& path, std::string_view text) {
  SLUICE_ASSIGN(const FileDescriptor file, create_file(path));
  return write_all(file, as_bytes(text), path);
}

}  // namespace sluice
