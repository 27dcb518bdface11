//! Damaged definitions by the thousand: whatever a file says, reading and checking it ends in a task or in problems
//! that have a place. `FUZZ_SECONDS` says for how long (default 2), `SEED` with what; a failure prints the seed.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic there is the report")]

use std::time::{Duration, Instant};

use definition::file;

/// xorshift64*, enough to choose with and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(value).unwrap() % bound.max(1)
    }
}

const SEEDS: [&str; 5] = [
    include_str!("../../examples/hello.json"),
    include_str!("../../examples/web.json"),
    include_str!("../../examples/depends-on.json"),
    r#"{"taskDefinition":{"family":"f","revision":3,"requiresCompatibilities":["FARGATE"],"ephemeralStorage":{"sizeInGiB":21},"cpu":".25 vCPU","memory":"0.5GB",
        "networkMode":"awsvpc","containerDefinitions":[{"name":"c","image":"i","ulimits":[{"name":"nofile","softLimit":-1,
        "hardLimit":-1}],"linuxParameters":{"capabilities":{"add":["ALL"]},"tmpfs":[]},"healthCheck":{"command":["CMD"]}}]},
        "tags":[]}"#,
    r#"{"family":"f","networkMode":"host","volumes":[{"name":"v","host":{"sourcePath":"/x"}}],"containerDefinitions":[
        {"name":"a","image":"i","memory":6,"portMappings":[{"containerPort":80}],"mountPoints":[{"sourceVolume":"v",
        "containerPath":"/v"}],"logConfiguration":{"logDriver":"json-file","options":{"max-size":"10m","max-file":"3"}}}]}"#,
];

/// What JSON and ECS are made of, to be put where it does not belong.
const PIECES: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "true",
    "-1",
    "0",
    "2147483647",
    "2147483648",
    "1e999",
    "\\u0000",
    "\\ud800",
    "é",
    "\u{202e}",
    "\"memory\":",
    "\"containerDefinitions\":",
    "..",
    "/",
    "GB",
    " vCPU",
];

fn damage(random: &mut Random) -> String {
    let mut text: Vec<char> = SEEDS[random.below(SEEDS.len())].chars().collect();
    for _ in 0..=random.below(6) {
        let at = random.below(text.len());
        match random.below(4) {
            0 => drop(text.drain(at..(at + random.below(40)).min(text.len()))),
            1 => drop(text.splice(at..at, PIECES[random.below(PIECES.len())].chars())),
            2 => {
                let from = random.below(text.len());
                let piece: Vec<char> = text[from..(from + random.below(60)).min(text.len())].to_vec();
                drop(text.splice(at..at, piece));
            }
            _ => {
                if let Some(c) = text.get_mut(at) {
                    *c = char::from(u8::try_from(random.below(128)).unwrap());
                }
            }
        }
    }
    text.into_iter().collect()
}

#[test]
fn damaged_files_end_in_a_task_or_in_placed_problems() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = number("SEED", clock.as_secs());
    println!("SEED={seed}");
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let end = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS", 2));
    let (mut files, mut sound, mut read) = (0_u64, 0_u64, 0_u64);
    while Instant::now() < end {
        let text = damage(&mut random);
        files += 1;
        match file::read(&text) {
            Err(problems) => {
                assert!(!problems.is_empty(), "{text}");
                assert!(problems.iter().all(|problem| problem.line > 0 && problem.column > 0), "{problems:?}\n{text}");
            }
            Ok(definition) => {
                read += 1;
                let json = serde_json::to_string(&definition.request).unwrap();
                assert_eq!(file::read(&json).unwrap().request, definition.request, "does not survive its JSON: {text}");
                match definition::check(&definition.request) {
                    Ok(_) => {
                        sound += 1;
                        let registered = definition::registered(&definition.request);
                        assert!(definition::check(&definition::request(&registered)).is_ok(), "{text}");
                    }
                    Err(problems) => {
                        assert!(problems.iter().all(|problem| file::place(&text, problem).line > 0), "{text}");
                    }
                }
            }
        }
    }
    println!("{files} files, {read} read, {sound} sound");
}
