// Errors whose message is meant for the user.

export class UserError extends Error {}

// The message to show for `error`. An unexpected error goes to the console, and the user sees `fallback`.
export function messageFor(error, fallback) {
  if (error instanceof UserError) return error.message;
  console.error(error);
  return fallback;
}
