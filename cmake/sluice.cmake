# Flags of the house style and the functions that declare libraries, programs and tests.

find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)

add_library(sluice_flags INTERFACE)
target_include_directories(sluice_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
target_compile_definitions(sluice_flags INTERFACE _GNU_SOURCE
    SLUICE_VERSION="${PROJECT_VERSION}")
target_compile_options(sluice_flags INTERFACE
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wdouble-promotion
    -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-qual -Wwrite-strings
    -Wundef -Wvla -Wformat=2 -Wno-format-zero-length -Wswitch-enum -fno-common -fstack-protector-strong
    -fstack-clash-protection -fcf-protection -fPIE -ffp-contract=off)
target_link_options(sluice_flags INTERFACE -pie -Wl,-z,relro,-z,now)
if(SLUICE_WERROR)
    target_compile_options(sluice_flags INTERFACE -Werror)
endif()
if(SLUICE_SANITIZE STREQUAL "address")
    target_compile_options(sluice_flags INTERFACE -fsanitize=address,undefined
        -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
    target_link_options(sluice_flags INTERFACE -fsanitize=address,undefined)
elseif(SLUICE_SANITIZE STREQUAL "thread")
    target_compile_options(sluice_flags INTERFACE -fsanitize=thread -fno-omit-frame-pointer)
    target_link_options(sluice_flags INTERFACE -fsanitize=thread)
elseif(NOT SLUICE_SANITIZE STREQUAL "")
    message(FATAL_ERROR "SLUICE_SANITIZE=${SLUICE_SANITIZE}; want empty, address or thread")
elseif(CMAKE_BUILD_TYPE STREQUAL "Release")
    # GCC 12 knows -ftrivial-auto-var-init; distributions predefine _FORTIFY_SOURCE at times.
    target_compile_options(sluice_flags INTERFACE -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3
        -ftrivial-auto-var-init=zero)
endif()

# sluice_library(NAME SOURCES a.c … DEPENDS base kv … LINK <other targets> PRIVATE_LINK …)
# A folder's library. DEPENDS are folders, and must obey the floors (tools/check_floors.py).
function(sluice_library name)
    cmake_parse_arguments(A "" "" "SOURCES;DEPENDS;LINK" ${ARGN})
    add_library(${name} STATIC ${A_SOURCES})
    target_link_libraries(${name} PUBLIC sluice_flags Threads::Threads ${A_DEPENDS} ${A_LINK})
endfunction()

# sluice_program(sluice-NAME SOURCES … DEPENDS …)
function(sluice_program name)
    cmake_parse_arguments(A "" "" "SOURCES;DEPENDS;LINK" ${ARGN})
    add_executable(${name} ${A_SOURCES})
    target_link_libraries(${name} PRIVATE sluice_flags ${A_DEPENDS} ${A_LINK})
endfunction()

# gRPC and its like are not instrumented: TSan looks at our code only, and takes no order from sockets
# (decision 0036). A failed allocation is a status.
set(sluice_test_environment
    "ASAN_OPTIONS=allocator_may_return_null=1:detect_stack_use_after_return=1"
    "UBSAN_OPTIONS=print_stacktrace=1"
    "TSAN_OPTIONS=ignore_noninstrumented_modules=1:io_sync=0:allocator_may_return_null=1:second_deadlock_stack=1")

# Sanitizers make the tests some ten times slower, and a busy machine a few times more: only what hangs
# is to reach its timeout.
set(sluice_slowness 1)
if(NOT SLUICE_SANITIZE STREQUAL "")
    set(sluice_slowness 6)
endif()

# sluice_test(test_NAME SOURCES … DEPENDS … [LABEL unit|torture|sim] [TIMEOUT s])
# A cmocka program run by ctest; working directory is the source root.
function(sluice_test name)
    cmake_parse_arguments(A "" "LABEL;TIMEOUT" "SOURCES;DEPENDS;LINK" ${ARGN})
    if(NOT A_LABEL)
        set(A_LABEL unit)
    endif()
    if(NOT A_TIMEOUT)
        set(A_TIMEOUT 120)
    endif()
    math(EXPR A_TIMEOUT "${A_TIMEOUT} * ${sluice_slowness}")
    add_executable(${name} ${A_SOURCES})
    target_link_libraries(${name} PRIVATE sluice_flags ${A_DEPENDS} ${A_LINK} cmocka)
    target_include_directories(${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests) # "support/…"
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    add_test(NAME ${name} COMMAND ${name} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(${name} PROPERTIES LABELS ${A_LABEL} TIMEOUT ${A_TIMEOUT}
        ENVIRONMENT "${sluice_test_environment}")
endfunction()

# sluice_fuzzer(fuzz_NAME SOURCES … DEPENDS …): only with -DSLUICE_FUZZ=ON and clang.
function(sluice_fuzzer name)
    if(NOT SLUICE_FUZZ)
        return()
    endif()
    cmake_parse_arguments(A "" "" "SOURCES;DEPENDS;LINK" ${ARGN})
    add_executable(${name} ${A_SOURCES})
    target_link_libraries(${name} PRIVATE sluice_flags ${A_DEPENDS} ${A_LINK})
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
endfunction()
