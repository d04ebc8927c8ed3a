//! A hybrid cache that instances of a service share, over Redis or Valkey or in process.
#![expect(dead_code, reason = "the policy that calls these steps stands above them, in its turn")]

mod backend;
