// Makes an image directory of given files, signed, for tests that need one and not the build of one:
//
//     image_sample KEYS DIR VERSION PART=FILE...
//
// root.img's FILE is the data, to which its hash area is added. Parts that no image is without have some
// bytes when none are given.

#include <cstdio>

#include "base/error.h"
#include "tests/unit/image/image_samples.h"

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fputs("usage: image_sample KEYS DIR VERSION PART=FILE...\n", stderr);
    return 2;
  }
  try {
    std::map<std::string, std::string> parts = image::sample_parts();
    for (int i = 4; i < argc; ++i) {
      std::string word = argv[i];
      size_t equals = word.find('=');
      parts[word.substr(0, equals)] = base::read_file(word.substr(equals + 1), size_t{1} << 30);
    }
    image::write_image(argv[2], base::Keys(argv[1]), parts, argv[3]);
  } catch (const base::Error& error) {
    std::fputs(error.render().c_str(), stderr);
    return static_cast<int>(error.exit());
  }
}
