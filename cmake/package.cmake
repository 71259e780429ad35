# Two Debian packages: drover, for those who build and operate, and drover-node, for nodes and for host images. They have no
# maintainer scripts: what a unit is wanted by is a link in the package. `cmake --build --preset release --target package`.

# What drover-node runs is what a node is made of: ci/node-packages.txt. Libraries are found by dpkg-shlibdeps, and
# the kernel is the machine's affair.
file(STRINGS ${PROJECT_SOURCE_DIR}/ci/node-packages.txt lines REGEX "^[a-z]")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/ci/node-packages.txt)
set(node_needs "")
foreach(line ${lines})
  string(REGEX REPLACE " .*" "" name ${line})
  if(NOT name MATCHES "^(lib|linux-image|systemd-sysv$)")
    list(APPEND node_needs ${name})
  endif()
endforeach()
list(APPEND node_needs fdisk)  # sfdisk, for `drover-node bootstrap grow`
list(JOIN node_needs ", " node_needs)

# What `drover` runs. Of boot loaders it only reads files.
list(APPEND builder_needs cryptsetup-bin debian-archive-keyring dosfstools e2fsprogs erofs-utils grub-common grub-efi-amd64-bin grub-pc-bin ipxe kmod
     mmdebstrap mtools openssh-client xz-utils zstd)
list(JOIN builder_needs ", " builder_needs)

# Each page of docs/man as man(1) wants it.
add_executable(man_pages cli/main_man.cc)
target_link_libraries(man_pages PRIVATE cli warnings)
set(man_dir ${PROJECT_BINARY_DIR}/man)
set(man_files "")
foreach(page ${pages})
  get_filename_component(name ${page} NAME_WE)
  list(APPEND man_files ${man_dir}/${name}.1.gz)
endforeach()
add_custom_command(
  OUTPUT ${man_files}
  COMMAND ${CMAKE_COMMAND} -E rm -rf ${man_dir}
  COMMAND ${CMAKE_COMMAND} -E make_directory ${man_dir}
  COMMAND man_pages ${man_dir}
  COMMAND gzip --best --no-name ${man_dir}/*.1
  DEPENDS man_pages)
add_custom_target(man ALL DEPENDS ${man_files})

function(install_man component pattern)
  install(DIRECTORY ${man_dir}/ DESTINATION share/man/man1 COMPONENT ${component} FILES_MATCHING PATTERN ${pattern})
endfunction()

set(units ${PROJECT_SOURCE_DIR}/bootstrap/units)
set(unit_dir lib/systemd/system)
install(TARGETS drover DESTINATION bin COMPONENT drover)
install(TARGETS drover-node DESTINATION bin COMPONENT node)
install(TARGETS drover-init DESTINATION lib/drover COMPONENT node)
install(FILES ${units}/boot-efi.mount ${units}/drover-confirm.service ${units}/drover-deadline.service ${units}/drover-deadline.timer
              ${units}/drover-grow.service ${units}/drover-watchdog.service DESTINATION ${unit_dir} COMPONENT node)
install(FILES ${units}/journal-flush.conf DESTINATION ${unit_dir}/systemd-journal-flush.service.d RENAME drover.conf COMPONENT node)
install(FILES ${units}/sysctl.conf DESTINATION lib/sysctl.d RENAME 50-drover.conf COMPONENT node)
install(FILES ${units}/tmpfiles.conf DESTINATION lib/tmpfiles.d RENAME drover.conf COMPONENT node)
install(CODE "
  foreach(link multi-user.target.wants/drover-confirm.service multi-user.target.wants/drover-grow.service
               multi-user.target.wants/drover-watchdog.service
               timers.target.wants/drover-deadline.timer)
    get_filename_component(name \${link} NAME)
    get_filename_component(dir \${link} DIRECTORY)
    set(dir \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${unit_dir}/\${dir}\")
    file(MAKE_DIRECTORY \${dir})
    file(CREATE_LINK ../\${name} \${dir}/\${name} SYMBOLIC)
  endforeach()" COMPONENT node)
# Where a read-only root has things mounted.
foreach(directory /boot/efi /var/lib/drover)
  install(DIRECTORY DESTINATION ${directory} COMPONENT node)
endforeach()
foreach(folder image templates)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder}/definitions DESTINATION share/drover/${folder} COMPONENT drover)
endforeach()
install_man(drover drover.1.gz)
install_man(drover "drover-template*.1.gz")
install_man(drover "drover-image*.1.gz")
install_man(node "drover-node*.1.gz")
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION share/doc/drover RENAME copyright COMPONENT drover)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION share/doc/drover-node RENAME copyright COMPONENT node)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "The drover maintainers <maintainers@drover.invalid>")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_ALL drover node)
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_COMPRESSION_TYPE zstd)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_DROVER_PACKAGE_NAME drover)
set(CPACK_DEBIAN_DROVER_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_DROVER_PACKAGE_DEPENDS "${builder_needs}")
# To build without root, data partitions with XFS, and what libguestfs makes its appliance of.
set(CPACK_DEBIAN_DROVER_PACKAGE_RECOMMENDS "uidmap, xfsprogs, linux-image-cloud-amd64 | linux-image-amd64")
set(CPACK_DEBIAN_DROVER_DESCRIPTION
    "builds and operates the systems of a rack\ndrover makes templates and host images, and talks to the nodes that run them.")
set(CPACK_DEBIAN_NODE_PACKAGE_NAME drover-node)
set(CPACK_DEBIAN_NODE_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_NODE_PACKAGE_DEPENDS "${node_needs}")
set(CPACK_DEBIAN_NODE_PACKAGE_RECOMMENDS "xfsprogs")
set(CPACK_DEBIAN_NODE_DESCRIPTION
    "runs and moves the boxes of a node\ndrover-node starts private servers, moves them to other nodes while they run, and brings up a node that boots a host image of drover.")
include(CPack)
