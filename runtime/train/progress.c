// The progress line: numbers short enough for the eye, one line that fits a terminal.
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "train/metrics.h"

// Appends to a text of `size` bytes; what does not fit is cut off.
static void append(char *text, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void append(char *text, size_t size, const char *format, ...)
{
    size_t used = strlen(text);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + used, size - used, format, arguments);
    va_end(arguments);
}

// 412300 → "412.3k".
static void append_rate(char *text, size_t size, double rate)
{
    static const struct {
        double unit;
        const char *suffix;
    } units[] = {{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "k"}};
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        // 0.99995 so that 999,990 is shown as 1.0M and not as 1000.0k.
        if (rate < units[i].unit * 0.99995)
            continue;
        append(text, size, "%.1f%s", rate / units[i].unit, units[i].suffix);
        return;
    }
    append(text, size, rate < 9.95 ? "%.1f" : "%.0f", rate);
}

static void append_memory(char *text, size_t size, size_t bytes)
{
    const double gib = 1024.0 * 1024 * 1024;
    if ((double)bytes >= gib)
        append(text, size, " | mem %.1fG", (double)bytes / gib);
    else
        append(text, size, " | mem %.1fM", (double)bytes / (1024.0 * 1024));
}

static void append_eta(char *text, size_t size, double seconds)
{
    long long whole = seconds < 1e12 ? (long long)(seconds + 0.5) : 0;
    append(text, size, " | eta %02lld:%02lld:%02lld", whole / 3600, whole / 60 % 60, whole % 60);
}

// Fixed decimals while they say something, else the exponent.
static void append_value(char *text, size_t size, const char *name, double value, int decimals)
{
    bool fixed = value == 0 || !isfinite(value) || (fabs(value) >= 0.01 && fabs(value) < 1e5);
    append(text, size, " | %s ", name);
    if (fixed)
        append(text, size, "%.*f", decimals, value);
    else
        append(text, size, "%.2e", value);
}

void ls_progress_line(
    const LsStepRecord *record, const LsProgress *progress, size_t tokens_per_sample, char *text, size_t size)
{
    text[0] = '\0';
    append(text, size, "step %lld", (long long)record->step);
    if (progress->total_steps > 0)
        append(text, size, "/%lld %lld%%", (long long)progress->total_steps,
            (long long)((double)record->step * 100.0 / (double)progress->total_steps));
    append(text, size, " | epoch %.2f", progress->epoch);
    append_value(text, size, "loss", (double)record->loss, 3);
    append_value(text, size, "gnorm", (double)record->gradient_norm, 2);
    append(text, size, " | lr %.1e | ", (double)record->lr);
    size_t scale = tokens_per_sample ? tokens_per_sample : 1;
    append_rate(text, size, record->samples_per_second * (double)scale);
    append(text, size, tokens_per_sample ? " tok/s" : " smp/s");
    if (record->mfu >= 0)
        append(text, size, " | mfu %.0f%%", record->mfu * 100);
    if (progress->memory_bytes > 0)
        append_memory(text, size, progress->memory_bytes);
    if (progress->eta_seconds >= 0 && isfinite(progress->eta_seconds))
        append_eta(text, size, progress->eta_seconds);
}
