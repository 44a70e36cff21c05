// NVRTC's interface: a source becomes a library of its kernels for the CPU, and its "PTX" says where
// that library is.

#include "stand_in.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <nvrtc.h>
#include <string>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

struct _nvrtcProgram {
    std::string source, name, log, result;
    std::vector<std::pair<std::string, std::string>> headers;
};

static uint64_t hash(const std::string &text, uint64_t state = 0xcbf29ce484222325u) {
    for (unsigned char byte : text) state = (state ^ byte) * 0x100000001b3u;
    return state;
}

static std::string quoted(const std::string &text) {
    std::string result = "'";
    for (char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return result + "'";
}

static void write_file(const std::string &path, const std::string &text) {
    FILE *file = fopen(path.c_str(), "wb");
    if (!file || fwrite(text.data(), 1, text.size(), file) != text.size() || fclose(file))
        stand_in_fail("%s cannot be written", path.c_str());
}

extern "C" {

nvrtcResult nvrtcVersion(int *major, int *minor) { return *major = 13, *minor = 0, NVRTC_SUCCESS; }
const char *nvrtcGetErrorString(nvrtcResult result) {
    return result == NVRTC_SUCCESS ? "NVRTC_SUCCESS" : "NVRTC_ERROR_COMPILATION";
}
nvrtcResult nvrtcGetNumSupportedArchs(int *count) { return *count = 1, NVRTC_SUCCESS; }
nvrtcResult nvrtcGetSupportedArchs(int *archs) { return *archs = 90, NVRTC_SUCCESS; }

nvrtcResult nvrtcCreateProgram(nvrtcProgram *program, const char *source, const char *name, int count,
                               const char *const *headers, const char *const *names) {
    *program = new _nvrtcProgram{source, name ? name : "", "", "", {}};
    for (int i = 0; i < count; i++) (*program)->headers.emplace_back(names[i], headers[i]);
    return NVRTC_SUCCESS;
}
nvrtcResult nvrtcDestroyProgram(nvrtcProgram *program) {
    delete *program;
    *program = nullptr;
    return NVRTC_SUCCESS;
}
nvrtcResult nvrtcAddNameExpression(nvrtcProgram, const char *) { return NVRTC_SUCCESS; }

nvrtcResult nvrtcCompileProgram(nvrtcProgram program, int count, const char *const *options) {
    COUNT_AS("compiled sources");
    if (stand_in_counting()) return program->result = "//library \n", NVRTC_SUCCESS;
    static std::mutex one;
    std::lock_guard<std::mutex> guard(one);
    const char *folder = getenv("CUDA_EMULATION_CACHE"), *translate = getenv("CUDA_EMULATION_TRANSLATE");
    if (!folder || !translate) stand_in_fail("CUDA_EMULATION_CACHE and CUDA_EMULATION_TRANSLATE are not set");
    std::string flags;
    uint64_t key = hash(program->source);
    for (const auto &header : program->headers) key = hash(header.second, hash(header.first, key));
    for (int i = 0; i < count; i++)
        if (!strncmp(options[i], "-D", 2) || !strncmp(options[i], "-I", 2) || !strncmp(options[i], "--define-macro=", 15)) {
            const std::string flag = options[i][1] == '-' ? std::string("-D") + (options[i] + 15) : options[i];
            flags += " " + quoted(flag);
            key = hash(flag, key);
        }
    struct stat info;
    // What the kernels are compiled with is part of the key.
    if (!stat(translate, &info)) key = hash(std::to_string(info.st_mtime), key);
    char name[32];
    snprintf(name, sizeof name, "%016llx", static_cast<unsigned long long>(key));
    const std::string base = std::string(folder) + "/" + name, library = base + ".so";
    if (access(library.c_str(), R_OK)) {
        mkdir(folder, 0777);
        mkdir(base.c_str(), 0777);
        for (const auto &header : program->headers) write_file(base + "/" + header.first, header.second);
        write_file(base + "/source.cu", program->source);
        const std::string command = quoted(translate) + " " + quoted(base + "/source.cu") + " " + quoted(library) + flags + " 2>&1";
        FILE *pipe = popen(command.c_str(), "r");
        char buffer[4096];
        while (size_t bytes = fread(buffer, 1, sizeof buffer, pipe)) program->log.append(buffer, bytes);
        if (pclose(pipe)) return NVRTC_ERROR_COMPILATION;
    }
    program->result = "//library " + library + "\n";
    return NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetPTXSize(nvrtcProgram program, size_t *size) { return *size = program->result.size() + 1, NVRTC_SUCCESS; }
nvrtcResult nvrtcGetPTX(nvrtcProgram program, char *ptx) {
    memcpy(ptx, program->result.c_str(), program->result.size() + 1);
    return NVRTC_SUCCESS;
}
nvrtcResult nvrtcGetCUBINSize(nvrtcProgram program, size_t *size) { return nvrtcGetPTXSize(program, size); }
nvrtcResult nvrtcGetCUBIN(nvrtcProgram program, char *image) { return nvrtcGetPTX(program, image); }
nvrtcResult nvrtcGetProgramLogSize(nvrtcProgram program, size_t *size) { return *size = program->log.size() + 1, NVRTC_SUCCESS; }
nvrtcResult nvrtcGetProgramLog(nvrtcProgram program, char *log) {
    memcpy(log, program->log.c_str(), program->log.size() + 1);
    return NVRTC_SUCCESS;
}
}
