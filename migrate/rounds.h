#pragma once
#include <chrono>
#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <semaphore>
#include <string>

#include "base/context.h"
#include "base/fd.h"
#include "box/cgroup.h"
#include "box/node.h"
#include "migrate/block_watch.h"
#include "migrate/change_watch.h"
#include "migrate/dirty.h"
#include "migrate/memory.h"
#include "migrate/plan.h"
#include "migrate/report.h"
#include "migrate/source.h"
#include "migrate/tree.h"
#include "migrate/wire.h"

namespace migrate {

/// What the source sends of a box: its private layer and its memory in rounds while it runs, then what it has
/// written since the last of them, and CRIU's images. Knows what the destination has by now.
class Rounds {
 public:
  /// `goal` has to be resolved. All have to outlive this.
  Rounds(base::Context& context, const MoveRequest& request, const Goal& goal, const box::Paths& paths,
         Wire& wire, Report& report);

  /// How much a move will have to do, with the memory gathered into huge pages where it pays: a dump takes
  /// time for each page. Before writes are tracked, as huge pages stay whole where nothing is written.
  BoxSize prepare(double criu_start_ms);
  /// Sends memory for a second, which the destination throws away, and looks what is written meanwhile.
  /// `layer_bytes`: of template layers that the destination lacks.
  Forecast measure(double criu_start_ms, uint64_t private_layer_bytes, uint64_t layer_bytes);
  /// The box runs. Ends when `plan` has enough of it, be it because its target is out of reach. What it
  /// returns was predicted as soon as wire and box had been measured, in a move that began at `start`: after
  /// the first round of memory, and its freeze now.
  Forecast run(Plan& plan, const std::string& id, std::chrono::steady_clock::time_point start);
  /// The box is frozen: begins to send the memory that the destination needs before it has the box. Returns
  /// the bytes of all that it lacks.
  uint64_t last_memory();
  /// The box is frozen, and CRIU has dumped it. Returns bytes, as `images` does.
  uint64_t last_files() { return send_layer(true).bytes; }
  uint64_t images() { return send_images(true); }

  /// Sends CRIU's images as it writes them, on a thread of its own, so that little of them is left when it
  /// has dumped. While one exists, nobody else uses the wire. Not for images with memory in them: a file that
  /// grows is read again each time.
  class ImagesAhead {
   public:
    explicit ImagesAhead(Rounds& rounds);
    ImagesAhead(const ImagesAhead&) = delete;
    ImagesAhead& operator=(const ImagesAhead&) = delete;
    ~ImagesAhead();
    /// Throws what keeps it from sending; also an interrupt, when it was the one that noticed it.
    void check();
    /// Bytes that it has sent; throws like that.
    uint64_t end();

   private:
    std::counting_semaphore<2> ended_{0};
    std::future<uint64_t> sent_;
  };

  /// The connection for the memory: from the first round on, but for `stop`.
  [[nodiscard]] MemoryServer* memory() { return memory_ ? &*memory_ : nullptr; }

 private:
  Sent noise(uint64_t layer_bytes = 0);
  TreeStats file_round(Plan& plan, int number);
  void memory_round(Plan& plan, int number, uint64_t files);
  TreeStats send_layer(bool final);
  uint64_t send_images(bool final);
  TreeStats send(int dir, TreeSnapshot& last, SendOptions options);

  base::Context& context_;
  const MoveRequest& request_;
  const Goal& goal_;
  const box::Paths& paths_;
  Wire& wire_;
  Report& report_;
  const box::Cgroup group_;
  BoxSize size_;
  base::Fd layer_;  ///< the private layer, or its image's directory
  bool image_ = false;
  std::unique_ptr<ChangeWatch>
      watch_;  ///< of the private layer's file system, from round 0 on; not of an image
  std::unique_ptr<BlockWatch> blocks_;  ///< of the private layer's large files, or its image
  TreeSnapshot sent_;                   ///< what the destination has of the private layer
  std::optional<DirtyMemory> dirty_;
  TreeSnapshot images_;                 ///< what it has of CRIU's images
  DirtyMemory::Written written_;        ///< and not sent yet
  std::optional<MemoryServer> memory_;  ///< what has not gone when the box goes is served from here
};

}  // namespace migrate
