# Writes a C file that holds the bytes of another: cmake -DIN=a.html -DOUT=a_html.c -DNAME=a_html -P embed.cmake
# declares const unsigned char NAME[] and const size_t NAME_bytes.
file(READ "${IN}" hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
string(REGEX REPLACE "((0x..,){20})" "\\1\n" lines "${bytes}")
file(WRITE "${OUT}"
    "#include <stddef.h>\n\nextern const unsigned char ${NAME}[];\nextern const size_t ${NAME}_bytes;\n"
    "const unsigned char ${NAME}[] = {\n${lines}\n};\nconst size_t ${NAME}_bytes = sizeof(${NAME});\n")
