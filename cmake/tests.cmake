# Unit tests, fuzz targets, and programs that other tests run.
enable_testing()
include(GoogleTest)

# tests/unit/FOLDER/*.cc are one program, unit_FOLDER.
function(drover_unit_tests folder)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/unit/${folder}/*.cc)
  if(NOT sources)
    return()
  endif()
  add_executable(unit_${folder} ${sources})
  target_link_libraries(unit_${folder} PRIVATE ${folder} warnings GTest::gtest_main)
  gtest_discover_tests(unit_${folder} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR} TEST_PREFIX ${folder}. PROPERTIES LABELS unit TIMEOUT 120)
endfunction()

foreach(folder base rootfs templates box migrate image bootstrap cli)
  drover_unit_tests(${folder})
endforeach()

# tests/fuzz/FOLDER_WHAT_fuzz.cc is a libFuzzer target; without libFuzzer, tests/fuzz/driver.cc runs it over
# tests/fuzz/corpus/FOLDER_WHAT and changed copies of it: for a minute in all.
file(GLOB targets CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/tests/fuzz/*_fuzz.cc)
list(LENGTH targets count)
if(count)
  math(EXPR fuzz_seconds "60 / ${count}")
endif()
foreach(target ${targets})
  string(REGEX REPLACE ".*/(([a-z]+)_[a-z_]+)_fuzz.cc" "\\1;\\2" words ${target})
  list(GET words 0 name)
  list(GET words 1 folder)
  add_executable(fuzz_${name} ${target} tests/fuzz/driver.cc)
  target_link_libraries(fuzz_${name} PRIVATE ${folder} warnings)
  add_test(NAME fuzz.${name} COMMAND fuzz_${name} ${PROJECT_SOURCE_DIR}/tests/fuzz/corpus/${name} ${fuzz_seconds}s)
  set_tests_properties(fuzz.${name} PROPERTIES LABELS fuzz TIMEOUT 300)
endforeach()

# What tests/vm/test_loader.py holds GRUB against.
add_executable(slot_model tests/tools/slot_model.cc)
target_link_libraries(slot_model PRIVATE image warnings)

# What tests/vm/test_disk.py boots.
add_executable(disk_model tests/tools/disk_model.cc)
target_link_libraries(disk_model PRIVATE image warnings)

# What the tests of `drover image` have for an image.
add_executable(image_sample tests/tools/image_sample.cc)
target_link_libraries(image_sample PRIVATE image warnings)

# They run the programs, to see that every command has its page.
if(TARGET unit_cli)
  target_compile_definitions(unit_cli PRIVATE DROVER_BIN_DIR="${CMAKE_RUNTIME_OUTPUT_DIRECTORY}")
  add_dependencies(unit_cli drover drover-node)
endif()

# They start the guard of a box's memory, which is a command of drover-node.
if(TARGET unit_migrate)
  target_compile_definitions(unit_migrate PRIVATE DROVER_BIN_DIR="${CMAKE_RUNTIME_OUTPUT_DIRECTORY}")
  add_dependencies(unit_migrate drover-node)
endif()
