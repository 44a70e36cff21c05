#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| candle_course_fuzz::geotiff(bytes));
