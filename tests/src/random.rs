//! Chance that can be repeated: a generator seeded by `SEED`, which is printed.

/// xorshift64*: the same sequence for the same seed, on every machine.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Seeded by the variable `SEED`, or by the clock; prints the seed.
    #[expect(clippy::print_stdout, reason = "a failing test shows what repeats it")]
    pub fn seeded() -> Random {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let seed = number("SEED", clock.as_secs());
        println!("SEED={seed}");
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }
}

/// A number from a variable.
#[track_caller]
pub fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}
