#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pcap_tests::fuzz::run("kept", data));
