/* SANITIZED: 1 where a sanitizer owns memory, so that what a program takes of it says nothing. */
#ifndef LM_TESTS_REPO_SANITIZER_H
#define LM_TESTS_REPO_SANITIZER_H

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#endif
